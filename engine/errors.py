"""What goes wrong with a model, split by what can be done about it.

    ContentProblem (PeerProblem)   the release itself; remembered with its verdict, not tried again until the release
    │                              or the runtime changes
    ├── NotOnnx                        empty, truncated, random, or anything else that is no ONNX graph
    ├── OrtFormat                      the runtime's own format, which would load without being readable to us
    ├── ExternalData                   weights outside the file, which no signature covers
    ├── ForeignOperators               operators outside ai.onnx and ai.onnx.ml
    ├── UnsupportedOpset               a newer opset or IR version than this runtime has
    ├── UnservableType                 an input or output that is no plain tensor, or has no shape
    ├── RefusedByRuntime               readable, and still no model to the runtime
    ├── WrongSignature                 other inputs or outputs than the signed record says
    ├── BadVectors / FailedVectors     test vectors that cannot be read / are answered differently
    ├── BadLabels                      a labels file that is no list of names
    ├── BadFunctions                   a .pql that does not parse or names what does not exist
    ├── BadPipelineRelease             steps that do not fit each other, or not what was signed of them
    └── ModelCrashed                   the trial's process died of a fault while the model ran
    PassingProblem (WorldProblem)  memory, time, a child that could not start: may pass, retried with back-off
    ├── OverMemory                     more memory than the trial's limit or the peer's budget
    ├── OverTime                       more processor or wall time than allowed
    ├── TrialFailed                    the trial itself could not be held
    ├── NeedsNotMet                    a release that it needs is not in memory, or does not fit
    ├── EngineBusy                     the queue of long calls is full
    ├── StreamBusy                     another call is running on the stream
    └── ReplicaLost                    the process that runs a model ended, and is not started again yet
    InputProblem (UserProblem)     an input that does not fit the signature: names input, expected and found
    StreamUnknown (UserProblem)    a stream that is not open, or no more: says why
    ModelNotLoaded (UserProblem)   a name that is not in memory here
    NotAModel (UserProblem)        a pipeline where a model is expected
    ModelFailed (InternalProblem)  the runtime failed on an input that fits

Memory and time pass because they depend on the machine at that moment and on the budget its owner sets, which no
digest covers, and needs because they are of other releases; everything else is decided by the bytes of the release and
the version of the runtime alone.
"""

from __future__ import annotations

from query.errors import InternalProblem, PeerProblem, UserProblem, WorldProblem


class ContentProblem(PeerProblem):
    code = "model_content"


class NotOnnx(ContentProblem):
    code = "not_onnx"


class OrtFormat(ContentProblem):
    code = "ort_format"


class ExternalData(ContentProblem):
    code = "external_data"


class ForeignOperators(ContentProblem):
    code = "foreign_operators"


class UnsupportedOpset(ContentProblem):
    code = "unsupported_opset"


class UnservableType(ContentProblem):
    code = "unservable_type"


class RefusedByRuntime(ContentProblem):
    code = "refused_by_runtime"


class WrongSignature(ContentProblem):
    code = "wrong_signature"


class BadVectors(ContentProblem):
    code = "bad_vectors"


class FailedVectors(ContentProblem):
    code = "failed_vectors"


class BadLabels(ContentProblem):
    code = "bad_labels"


class BadFunctions(ContentProblem):
    code = "bad_functions"


class BadPipelineRelease(ContentProblem):
    code = "bad_pipeline_release"


class ModelCrashed(ContentProblem):
    code = "model_crashed"


class PassingProblem(WorldProblem):
    code = "model_passing"


class OverMemory(PassingProblem):
    code = "over_memory"


class OverTime(PassingProblem):
    code = "over_time"


class TrialFailed(PassingProblem):
    code = "trial_failed"


class NeedsNotMet(PassingProblem):
    code = "needs_not_met"


class EngineBusy(PassingProblem):
    code = "engine_busy"


class ReplicaLost(PassingProblem):
    code = "replica_lost"


class StreamBusy(PassingProblem):
    code = "stream_busy"


class StreamUnknown(UserProblem):
    code = "stream_unknown"


class ModelLoading(PassingProblem):
    code = "model_loading"


class InputProblem(UserProblem):
    code = "bad_input"


class ModelNotLoaded(UserProblem):
    code = "model_not_loaded"


class NotAModel(UserProblem):
    code = "not_a_model"


class ModelFailed(InternalProblem):
    code = "model_failed"
