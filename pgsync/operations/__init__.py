"""Sync operations: a lock, a limit, a queue and a history, declared once."""

from pgsync.operations.calls import OperationState, operation_status
from pgsync.operations.declaration import OperationDeclaration, OperationOptions, Release
from pgsync.operations.failure import FailureCallbacks, OperationFailure
from pgsync.operations.operation import AsyncOperation, Operation
from pgsync.operations.run import AsyncOperationRun, OperationRun

__all__ = [
    "AsyncOperation",
    "AsyncOperationRun",
    "FailureCallbacks",
    "Operation",
    "OperationDeclaration",
    "OperationFailure",
    "OperationOptions",
    "OperationRun",
    "OperationState",
    "Release",
    "operation_status",
]
