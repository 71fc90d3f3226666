from .bars import Bar as Bar
from .bars import read_bars as read_bars
from .keeper import GRACE as GRACE
from .keeper import keep_task as keep_task
from .task import TASK_STATES as TASK_STATES
from .task import Task as Task
from .task import find_tasks as find_tasks
from .task import start_task as start_task
