//! The OpenAPI document of the service, made from the route table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::fields::{Field, Kind};
use crate::routes::{COMMON, FAMILIES, Output, Route, Shape};

/// OpenAPI 3.0.3, as JSON.
pub fn document() -> Value {
    let mut paths = Map::new();
    for family in FAMILIES {
        for route in family.routes {
            paths.insert(route.path.to_owned(), json!({"post": operation(family.name, route)}));
        }
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "CTyun KMS, as kms-mock answers it",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Both signatures reach every path: profile N (accessKey, requestDate, hmac) and profile E \
                (ctyun-eop-request-id, eop-date, Eop-Authorization). Their algorithms are outside what this document can say.",
        },
        "tags": FAMILIES.iter().map(|family| json!({"name": family.name, "description": family.title})).collect::<Vec<_>>(),
        "security": [
            {"accessKey": [], "requestDate": [], "hmac": []},
            {"eopRequestId": [], "eopDate": [], "eopAuthorization": []},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "accessKey": header("accessKey"),
                "requestDate": header("requestDate"),
                "hmac": header("hmac"),
                "eopRequestId": header("ctyun-eop-request-id"),
                "eopDate": header("eop-date"),
                "eopAuthorization": header("Eop-Authorization"),
            },
            "schemas": {"Refusal": refusal()},
        },
    })
}

fn header(name: &str) -> Value {
    json!({"type": "apiKey", "in": "header", "name": name})
}

fn operation(family: &str, route: &Route) -> Value {
    // The second path of an API needs a name of its own.
    let first = crate::routes::all().find(|other| other.api == route.api).is_some_and(|other| other.path == route.path);
    let id = if first { route.api.to_owned() } else { route.path.trim_matches('/').replace('/', "-") };
    let mut responses = Map::new();
    responses
        .insert("200".to_owned(), json!({"description": "Success", "content": json_content(&success(route.response))}));
    // Troubles of the service itself come to every API: a fault is injected, or the store fails.
    let mut refusals = BTreeMap::from([(500, vec!["KMS.05xx"])]);
    for code in COMMON.iter().chain(route.codes).filter(|code| code.http != 500) {
        refusals.entry(code.http).or_default().push(code.code);
    }
    for (status, codes) in refusals {
        let content = json_content(&json!({"$ref": "#/components/schemas/Refusal"}));
        responses.insert(status.to_string(), json!({"description": codes.join(", "), "content": content}));
    }
    json!({
        "operationId": id,
        "summary": route.title,
        "tags": [family],
        "requestBody": {"required": true, "content": {"application/json": {"schema": request(route.request)}}},
        "responses": responses,
    })
}

fn json_content(schema: &Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

fn request(fields: &[Field]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), field_schema(field.kind))).collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    object(properties, &required)
}

fn field_schema(kind: Kind) -> Value {
    match kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Number => json!({"type": "integer"}),
        Kind::TextOrNumber => json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Objects(fields) => json!({"type": "array", "items": request(fields)}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Any => json!({}),
    }
}

/// The envelope of profile N or of profile E around the same payload.
fn success(outputs: &[Output]) -> Value {
    let payload = outputs_schema(outputs);
    let native = [
        ("code", json!({"type": "integer", "enum": [200]})),
        ("message", json!({"type": "string"})),
        ("errorCode", json!({"type": "string"})),
        ("requestId", json!({"type": "string", "format": "uuid"})),
        ("data", payload.clone()),
    ];
    let eop = [
        ("code", json!({"type": "integer", "enum": [200]})),
        ("statusCode", json!({"type": "integer", "enum": [200]})),
        ("success", json!({"type": "integer", "enum": [1]})),
        ("requestId", json!({"type": "string", "format": "uuid"})),
        ("result", payload),
    ];
    json!({"oneOf": [envelope(native), envelope(eop)]})
}

fn refusal() -> Value {
    envelope([
        ("code", json!({"type": "integer"})),
        ("statusCode", json!({"type": "integer"})),
        ("success", json!({"type": "integer", "enum": [0]})),
        ("errorCode", json!({"type": "string"})),
        ("error", json!({"type": "string"})),
        ("message", json!({"type": "string"})),
        ("requestId", json!({"type": "string", "format": "uuid"})),
    ])
}

/// An object that has all of these and nothing else.
fn envelope<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let required = fields.each_ref().map(|(name, _)| *name);
    closed(object(fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect(), &required))
}

fn outputs_schema(outputs: &[Output]) -> Value {
    let properties: Map<String, Value> =
        outputs.iter().map(|output| (output.name.to_owned(), shape_schema(output.shape))).collect();
    let required: Vec<&str> = outputs.iter().filter(|output| output.always).map(|output| output.name).collect();
    closed(object(properties, &required))
}

fn shape_schema(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!({"type": "string"}),
        Shape::Number => json!({"type": "integer"}),
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Shape::Object(outputs) => outputs_schema(outputs),
        Shape::Objects(outputs) => json!({"type": "array", "items": outputs_schema(outputs)}),
    }
}

fn object(properties: Map<String, Value>, required: &[&str]) -> Value {
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), properties.into());
    // OpenAPI 3.0 allows no empty list here.
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.into()
}

fn closed(mut schema: Value) -> Value {
    schema["additionalProperties"] = false.into();
    schema
}
