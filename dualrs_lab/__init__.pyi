from .adapters.load import load_network as load_network
from .front.certify import certify as certify
from .front.certify import predict as predict
from .front.diagnose import diagnose as diagnose
from .front.pictures import load_images as load_images
from .front.signs import Sign as Sign
from .front.table import Table as Table
from .front.table import compare as compare
from .front.table import read_table as read_table
from .front.table import summary as summary

__version__: str
