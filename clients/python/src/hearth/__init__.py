"""A client of Hearth: disposable microVMs that run what nobody trusts.

`Client` waits; `AsyncClient` is the same for asyncio. What they return is in `hearth.models`, what they raise in `hearth.errors`, and
their keyword arguments are in `hearth.options`.
"""

from . import errors, models, options
from ._archive import pack
from ._async.client import AsyncClient, AsyncEvents
from ._async.files import AsyncFiles
from ._async.held import AsyncHeld
from ._async.home import AsyncImages, AsyncSnapshots, AsyncTemplates
from ._async.kernels import AsyncKernelRun, AsyncKernels
from ._async.processes import AsyncProcess
from ._async.sandbox import AsyncForked, AsyncSandbox
from ._async.services import AsyncPorts, AsyncSecrets, AsyncServices
from ._async.shells import AsyncShell, AsyncShells
from ._async.transport import AsyncDownload
from ._home import home
from ._sync.client import Client, Events
from ._sync.files import Files
from ._sync.held import Held
from ._sync.home import Images, Snapshots, Templates
from ._sync.kernels import KernelRun, Kernels
from ._sync.processes import Process
from ._sync.sandbox import Forked, Sandbox
from ._sync.services import Ports, Secrets, Services
from ._sync.shells import Shell, Shells
from ._sync.transport import Download
from .errors import ApiError, HearthError, ProgramFailedError
from .models import (
    Dropped,
    ExecResult,
    Idle,
    Output,
    Port,
    PtySize,
    Readiness,
    ResourceLimits,
    Restart,
    SandboxInfo,
    Secret,
    TextEdit,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncDownload",
    "AsyncEvents",
    "AsyncFiles",
    "AsyncForked",
    "AsyncHeld",
    "AsyncImages",
    "AsyncKernelRun",
    "AsyncKernels",
    "AsyncPorts",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncSecrets",
    "AsyncServices",
    "AsyncShell",
    "AsyncShells",
    "AsyncSnapshots",
    "AsyncTemplates",
    "Client",
    "Download",
    "Dropped",
    "Events",
    "ExecResult",
    "Files",
    "Forked",
    "HearthError",
    "Held",
    "Idle",
    "Images",
    "KernelRun",
    "Kernels",
    "Output",
    "Port",
    "Ports",
    "Process",
    "ProgramFailedError",
    "PtySize",
    "Readiness",
    "ResourceLimits",
    "Restart",
    "Sandbox",
    "SandboxInfo",
    "Secret",
    "Secrets",
    "Services",
    "Shell",
    "Shells",
    "Snapshots",
    "Templates",
    "TextEdit",
    "errors",
    "home",
    "models",
    "options",
    "pack",
]
