"""The OpenAPI document says what the edge does."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from protos.codegen import openapi
from protos.codegen.contract import Contract
from protos.codegen.errors import CodegenError
from tests.unit.codegen.conftest import ROOT

Change = Callable[[str, str], Contract]


@pytest.fixture
def document(contract: Contract) -> dict[str, Any]:
    return json.loads(openapi.render(contract, version="1.2.3"))


def parameters(operation: dict[str, Any]) -> dict[str, Any]:
    return {f"{parameter['in']}:{parameter['name']}": parameter for parameter in operation["parameters"]}


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["info"]["version"] == "1.2.3"


def test_the_document_in_the_tree_is_openapi() -> None:
    text = (ROOT / "gen" / "openapi" / "comitia.json").read_text(encoding="utf-8")
    OpenAPIV31SpecValidator(json.loads(text)).validate()


def test_a_get_has_path_and_query_parameters_and_its_comment(document: dict[str, Any]) -> None:
    get = document["paths"]["/v1/{name}"]["get"]
    assert get["summary"] == "Fetches a book"
    assert "BOOK_NOT_FOUND" in get["description"]
    assert get["tags"] == ["BookService"]
    assert parameters(get)["path:name"]["required"] is True
    assert parameters(get)["query:with_cover"]["schema"] == {"type": "boolean"}
    assert "requestBody" not in get


def test_additional_bindings_are_operations_of_their_own(document: dict[str, Any]) -> None:
    assert document["paths"]["/v1/{name}"]["get"]["operationId"] == "BookService_GetBook"
    assert document["paths"]["/books/{name}"]["get"]["operationId"] == "BookService_GetBook_2"


def test_a_body_of_one_field_leaves_the_rest_to_the_query(document: dict[str, Any]) -> None:
    patch = document["paths"]["/v1/books/{book.name}"]["patch"]
    assert set(parameters(patch)) == {"path:book.name", "query:update_mask"}
    schema = patch["requestBody"]["content"]["application/json"]["schema"]
    assert schema["$ref"].endswith("comitia.library.v1.Book")


def test_a_whole_body_lacks_what_the_path_says(document: dict[str, Any]) -> None:
    lend = document["paths"]["/v1/books/{name}:lend"]["post"]
    body = lend["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"reader"}
    assert set(parameters(lend)) == {"path:name"}
    answer = lend["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["format"] == "date-time"


def test_a_stream_is_server_sent_events_with_flattened_query(document: dict[str, Any]) -> None:
    watch = document["paths"]["/v1/books:watch"]["get"]
    assert set(watch["responses"]["200"]["content"]) == {"text/event-stream"}
    assert set(parameters(watch)) == {"query:after_sequence", "query:filter.author", "query:genres"}


def test_an_open_rpc_asks_for_no_credentials(document: dict[str, Any]) -> None:
    assert document["paths"]["/v1/books:watch"]["get"]["security"] == []
    assert document["security"] == [{"bearer": []}, {"api_key": []}]
    assert document["paths"]["/v1/{name}"]["get"]["x-comitia-permission"] == "books.read"


def test_raw_bodies_and_errors_are_described(document: dict[str, Any]) -> None:
    page = document["paths"]["/v1/pages/{name}"]["get"]
    assert set(page["responses"]["200"]["content"]) == {"*/*"}
    assert page["responses"]["default"] == {"$ref": "#/components/responses/Error"}
    assert "google.rpc.ErrorInfo" in document["components"]["schemas"]


def test_fields_follow_the_json_mapping_of_protobuf(document: dict[str, Any]) -> None:
    book = document["components"]["schemas"]["comitia.library.v1.Book"]
    fields = book["properties"]
    assert fields["copies"] == {
        "type": "string", "format": "int64", "description": "Copies ever printed.", "readOnly": True,
    }  # fmt: skip
    assert fields["print_time"]["format"] == "date-time"
    assert fields["cover"]["contentEncoding"] == "base64"
    assert fields["copies_by_city"]["additionalProperties"] == {"type": "string", "format": "int64"}
    assert fields["cited"]["items"]["$ref"].endswith("comitia.library.v1.Book")
    assert fields["isbn"]["deprecated"] is True
    assert fields["extra"]["type"] == "object"
    assert book["required"] == ["name"]


def test_of_a_oneof_at_most_one_is_set_and_optional_fields_are_no_oneof(document: dict[str, Any]) -> None:
    person, place = {"required": ["person"]}, {"required": ["place"]}
    book = document["components"]["schemas"]["comitia.library.v1.Book"]
    assert book["oneOf"] == [person, place, {"not": {"anyOf": [person, place]}}]
    assert "allOf" not in book


def test_enums_are_names_with_their_comments(document: dict[str, Any]) -> None:
    genre = document["components"]["schemas"]["comitia.library.v1.Book.Genre"]
    assert genre["enum"] == ["GENRE_UNSPECIFIED", "GENRE_FICTION"]
    assert genre["description"] == "Kinds of books.\n- `GENRE_FICTION`: Made up."


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('get: "/v1/pages/{name}"', 'get: "/pages/{page}"', "`page`, which comitia.library.v1.GetBookRequest"),
        ('get: "/v1/pages/{name}"', 'get: "/books/{name}"', "both answer to GET /books/{name}"),
        ('get: "/v1/pages/{name}"', 'custom: {kind: "PRINT" path: "/x"}', "without one of get, put, post"),
        ("rpc PrintPage(GetBookRequest)", "rpc PrintPage(stream GetBookRequest)", "takes a stream"),
    ],
)
def test_rules_that_cannot_be_described_are_refused(changed: Change, old: str, new: str, sentence: str) -> None:
    spoiled = changed(old, new)
    with pytest.raises(CodegenError) as refusal:
        openapi.render(spoiled, version="1")
    assert sentence in str(refusal.value)
