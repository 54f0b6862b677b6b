"""Every error that openr1 raises on purpose.

    OpenR1Error                         exit code
    +-- ConfigError                     2   a setting, a flag or a dataset row that cannot be used
    +-- MissingError                    3   a file or a service that must exist does not
    |   +-- RewardServerUnavailable     3   the reward server did not answer within its deadline
    |   +-- NotSaved                    3   a checkpoint or a model could not be written, as on a full disk
    +-- TrainingError                   4   training cannot continue; the last checkpoint is valid
        +-- RewardProtocolError         4   the reward server sent an unusable answer
        +-- EngineError                 4   a generation engine failed, or returned something that was not requested
        +-- PolicyError                 4   a training or reference worker failed
        +-- WeightSyncError             4   the engines do not use the weights that were pushed
        +-- ActorLost                   4   the process or the node of an actor is gone
        +-- StageTimeout                4   a stage did not finish within its deadline
        +-- DatasetExhausted            4   too few prompts are left that are not skipped as solved

Catch `OpenR1Error` only where errors become exit codes (`cli/__main__.py`); everywhere else catch specific classes.
Every message is one line: what is wrong, where, and what to do.
"""


class OpenR1Error(Exception):
    """Base class of all errors whose message is meant for the user."""

    exit_code = 4


class ConfigError(OpenR1Error):
    """A setting, a flag or a dataset row that cannot be used."""

    exit_code = 2


class MissingError(OpenR1Error):
    """A file or a service that must exist does not."""

    exit_code = 3


class RewardServerUnavailable(MissingError):
    """The reward server did not answer within its deadline."""


class NotSaved(MissingError):
    """A checkpoint or a model could not be written, as on a full disk; the older checkpoints are valid."""


class TrainingError(OpenR1Error):
    """Training cannot continue; the last checkpoint is valid."""


class RewardProtocolError(TrainingError):
    """The reward server sent an answer that cannot be used."""


class EngineError(TrainingError):
    """A generation engine failed, or returned something that was not requested."""


class PolicyError(TrainingError):
    """A training or reference worker failed."""


class WeightSyncError(TrainingError):
    """The engines do not use the weights that were pushed."""


class DatasetExhausted(TrainingError):
    """Too few prompts are left that are not skipped as solved (`data.max_pass_rate`)."""


class ActorLost(TrainingError):
    """The process or the node of an actor is gone, or came back without its state."""


class StageTimeout(TrainingError):
    """A stage did not finish within its deadline; the message names who waits for whom."""
