from .contents import NotebookContents as NotebookContents
from .doors import BOARD as BOARD
from .doors import find_doors as find_doors
from .launch import launch as launch
from .server import Board as Board
from .server import FrontPage as FrontPage
