"""Where data sets are published, and in which files."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file that a data set is published in.

    Args:
        url: str. Its official address; ends with the file's name.
        size: int. Bytes.
        sha256: str, in hexadecimal.
        top: str. Folder in it whose content is the data set's folder.
    """

    url: str
    size: int
    sha256: str
    top: str = "."

    @property
    def name(self):
        """Name of the file."""
        return self.url.rpartition("/")[2]


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"
# Sizes and checksums as TensorFlow Datasets and torchvision have them.
ARCHIVES = {
    "voc2007": (
        Archive(
            f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            460032000,
            "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            "VOCdevkit",
        ),
        Archive(
            f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            451020800,
            "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
            "VOCdevkit",
        ),
    ),
    "voc2012": (
        Archive(
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            1999639040,
            "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            "VOCdevkit",
        ),
    ),
    "coco2014": (
        Archive(
            f"{_COCO}/zips/train2014.zip",
            13510573713,
            "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        ),
        Archive(
            f"{_COCO}/zips/val2014.zip",
            6645013297,
            "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        ),
        # Last: a reader that finds them takes the images to be there.
        Archive(
            f"{_COCO}/annotations/annotations_trainval2014.zip",
            252872794,
            "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        ),
    ),
}
ELSEWHERE = {  # data sets without a direct address -> where to ask
    "wider": "http://mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute.html",
    "nus_wide": "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/"
    "nuswide/NUS-WIDE.html",
}
