"""Keras layers, one a file, each named as its class."""

from zoo.layers.candidate_pool import CandidatePool as CandidatePool
from zoo.layers.correlation import Correlation as Correlation
from zoo.layers.cross_region_pooling import (
    CrossRegionPooling as CrossRegionPooling,
)
from zoo.layers.feature_gate import FeatureGate as FeatureGate
from zoo.layers.feature_refinement import FeatureRefinement as FeatureRefinement
from zoo.layers.feature_transform import FeatureTransform as FeatureTransform
from zoo.layers.label_predictor import LabelPredictor as LabelPredictor
from zoo.layers.recurrent_attention import (
    RecurrentAttention as RecurrentAttention,
)
from zoo.layers.region_anchors import RegionAnchors as RegionAnchors
from zoo.layers.region_gate import RegionGate as RegionGate
from zoo.layers.residual_attention import ResidualAttention as ResidualAttention
from zoo.layers.roi_crop_and_resize import RoiCropAndResize as RoiCropAndResize
from zoo.layers.roi_pooling import RoiPooling as RoiPooling
from zoo.layers.soft_attention import SoftAttention as SoftAttention
from zoo.layers.soft_attention_lstm_cell import (
    SoftAttentionLSTMCell as SoftAttentionLSTMCell,
)
