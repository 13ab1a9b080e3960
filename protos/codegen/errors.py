"""The one error of the generator: something in the protos that a person has to change."""


class CodegenError(Exception):
    """The protos cannot be turned into what `gen/` needs. The message says where and what to do."""
