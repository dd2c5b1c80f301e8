"""Calls a running server without any code of ours: only with what reflection returns, and Python's own gRPC."""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

job = json.loads(sys.argv[1])
channel = grpc.insecure_channel(job["at"])
within = 60


def message_class(pool, name):
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def reflection(version):
    """The messages of grpc/reflection/<version>/reflection.proto that are used here."""
    file = descriptor_pb2.FileDescriptorProto(name=version, package=f"grpc.reflection.{version}", syntax="proto3")
    text, data, message = 9, 12, 11

    def add(name, *fields):
        type_ = file.message_type.add(name=name)
        for number, field, kind, repeated, of in fields:
            added = type_.field.add(name=field, number=number, type=kind, label=3 if repeated else 1)
            if of:
                added.type_name = f".grpc.reflection.{version}.{of}"

    add("Request", (4, "file_containing_symbol", text, False, None), (7, "list_services", text, False, None))
    add("Files", (1, "file_descriptor_proto", data, True, None))
    add("Service", (1, "name", text, False, None))
    add("Services", (1, "service", message, True, "Service"))
    add("Response", (4, "files", message, False, "Files"), (6, "services", message, False, "Services"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request = message_class(pool, f"grpc.reflection.{version}.Request")
    response = message_class(pool, f"grpc.reflection.{version}.Response")
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return lambda **asked: next(ask(iter([request(**asked)]), timeout=within))


known = {}
services = {}
for version in ("v1", "v1alpha"):
    reflect = reflection(version)
    services[version] = [it.name for it in reflect(list_services="*").services.service]
    for service in ("cleave.order.v1.Orders", "grpc.health.v1.Health"):
        for text in reflect(file_containing_symbol=service).files.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(text)
            known[file.name] = file

pool = descriptor_pool.DescriptorPool()


def add(name):
    file = known.pop(name, None)
    if file is None:
        return
    for dependency in file.dependency:
        add(dependency)
    pool.Add(file)


for name in list(known):
    add(name)


def method(service, name):
    found = pool.FindServiceByName(service).FindMethodByName(name)
    request = message_class(pool, found.input_type.full_name)
    response = message_class(pool, found.output_type.full_name)
    made = channel.unary_stream if name.startswith("Watch") else channel.unary_unary
    call = made(f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString)
    return lambda message: json_format.ParseDict(message, request()), call


def plain(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def metadata(pairs):
    return {key: value for key, value in pairs}


orders = "cleave.order.v1.Orders"
result = {"services": services}

request, check = method("grpc.health.v1.Health", "Check")
result["health"] = plain(check(request({"service": orders}), timeout=within))["status"]

request, place = method(orders, "PlaceOrder")
body = request(
    {
        "customer_id": job["customer"],
        "lines": [{"product_id": job["product"], "quantity": 2}],
        "metadata": {"gift": True, "note": "für Ö"},
    }
)
key = [("idempotency-key", job["key"])]
placed, first = place.with_call(body, metadata=key, timeout=within)
again, second = place.with_call(body, metadata=key, timeout=within)
result["placed"], result["again"] = plain(placed), plain(again)
result["replayed"] = [metadata(it.initial_metadata()).get("idempotent-replayed") for it in (first, second)]
place(body, timeout=within)

try:
    place(request({}), timeout=within)
except grpc.RpcError as error:
    result["invalid"] = error.code().name

request, get = method(orders, "GetOrder")
result["got"] = plain(get(request({"order_id": placed.order_id}), timeout=within))
try:
    get(request({"order_id": "nothing"}), timeout=within)
except grpc.RpcError as error:
    details = metadata(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    result["refused"] = [error.code().name, b"order-not-found" in details]

request, page = method(orders, "ListOrders")
listed, token = [], ""
while True:
    found = page(request({"customer_id": job["customer"], "page_size": 1, "page_token": token}), timeout=within)
    listed += [order.order_id for order in found.orders]
    token = found.next_page_token
    if not token:
        break
result["listed"] = listed

request, watch = method(orders, "WatchEvents")
events = watch(request({}), timeout=within)
for event in events:
    if event.order_id == placed.order_id:
        result["watched"] = plain(event)
        events.cancel()
        break

print(json.dumps(result))
