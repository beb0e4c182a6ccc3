"""What the API answers, and the parts that requests are made of. Times are milliseconds since 1970 (`…_unix_ms`), durations say their
unit, sizes are in bytes unless they say MiB. What comes out of a guest (`bytes`, paths, texts) is to be escaped before it is shown.
"""

from .daemon import *
from .files import *
from .home import *
from .kernels import *
from .programs import *
from .sandboxes import *
from .services import *
from .words import *
