"""The part of Triton's message `ModelConfig` that is written here: names, types and numbers as its .proto has them."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

TYPES = descriptor_pb2.FieldDescriptorProto
TEXT, INT32, INT64, UINT64 = TYPES.TYPE_STRING, TYPES.TYPE_INT32, TYPES.TYPE_INT64, TYPES.TYPE_UINT64
DATA_TYPES = {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11, "TYPE_FP64": 12}
KINDS = {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3}
# Message: its fields, each with number, type (or the name of a message or an enum), and whether it is repeated.
MESSAGES = {
    "ModelParameter": {"string_value": (1, TEXT, False)},
    "ModelInput": {"name": (1, TEXT, False), "data_type": (2, "DataType", False), "dims": (4, INT64, True)},
    "ModelOutput": {
        "name": (1, TEXT, False),
        "data_type": (2, "DataType", False),
        "dims": (3, INT64, True),
        "label_filename": (4, TEXT, False),
    },
    "ModelInstanceGroup": {"kind": (4, "Kind", False), "count": (2, INT32, False)},
    "ModelDynamicBatching": {"max_queue_delay_microseconds": (2, UINT64, False)},
    # A map is written as repeated pairs, and read as them too.
    "ParametersEntry": {"key": (1, TEXT, False), "value": (2, "ModelParameter", False)},
    "ModelConfig": {
        "name": (1, TEXT, False),
        "backend": (17, TEXT, False),
        "max_batch_size": (4, INT32, False),
        "input": (5, "ModelInput", True),
        "output": (6, "ModelOutput", True),
        "instance_group": (7, "ModelInstanceGroup", True),
        "dynamic_batching": (11, "ModelDynamicBatching", False),
        "parameters": (14, "ParametersEntry", True),
    },
}


def parse(text):
    """Read a `config.pbtxt` as a server does; a field that the message lacks, or of another type, is an error."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in (("DataType", DATA_TYPES), ("Kind", KINDS)):
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, type_, repeated) in fields.items():
            label = TYPES.LABEL_REPEATED if repeated else TYPES.LABEL_OPTIONAL
            named = isinstance(type_, str)
            kind = (TYPES.TYPE_ENUM if type_ in ("DataType", "Kind") else TYPES.TYPE_MESSAGE) if named else type_
            added = message.field.add(name=field, number=number, type=kind, label=label)
            if named:
                added.type_name = f".inference.{type_}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return text_format.Parse(
        text, message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    )
