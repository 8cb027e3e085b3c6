"""Finished runs side by side: groups over seeds, their tables and files."""

from zoo.comparison.groups import Group as Group
from zoo.comparison.groups import Run as Run
from zoo.comparison.groups import Table as Table
from zoo.comparison.groups import mean_and_deviation as mean_and_deviation
from zoo.comparison.groups import paired as paired
from zoo.comparison.groups import read as read
from zoo.comparison.groups import tables as tables
from zoo.comparison.layout import markdown as markdown
from zoo.comparison.layout import means_csv as means_csv
from zoo.comparison.layout import rows as rows
from zoo.comparison.layout import runs_csv as runs_csv
from zoo.comparison.layout import text as text
