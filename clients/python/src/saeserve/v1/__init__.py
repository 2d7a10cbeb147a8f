"""Generated code of the contract `saeserve.v1`: nouns in `types_pb2`, the service in `feature_service_pb2` and its stub
in `feature_service_pb2_grpc`. Nothing is imported here, so that whoever needs one module loads only that one."""
