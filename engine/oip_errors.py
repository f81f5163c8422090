"""What is wrong with a request of the Open Inference Protocol before its tensors are looked at.

    BadMessage (UserProblem)             not JSON, not of the form of an inference request, parts that contradict
    UnsupportedParameter (UserProblem)   a parameter that would change the meaning and is not supported here
    NoGraph (UserProblem)                a model that has no graph to run

Tensors that do not fit the model are :class:`~engine.errors.InputProblem`; more of something than allowed is
:class:`~query.errors.LimitExceeded`.
"""

from __future__ import annotations

from query.errors import UserProblem


class BadMessage(UserProblem):
    code = "bad_message"


class UnsupportedParameter(UserProblem):
    code = "unsupported_parameter"


class NoGraph(UserProblem):
    code = "no_graph"
