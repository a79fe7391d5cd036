//! Routes of random numbers and digests.

use super::Shape::Text;
use super::{Route, output};
use crate::api::random_digest as api;
use crate::error::*;
use crate::fields::{Kind, required};

pub const ROUTES: &[Route] = &[
    Route {
        api: "generateRandom",
        path: "/get/random",
        title: "生成随机数",
        request: &[required("length", Kind::Number)],
        response: &[output("random", Text)],
        codes: &[KMS_0101, KMS_0241],
        run: api::generate_random,
    },
    Route {
        // Attested by a client, though the provider's tree of pages does not name it.
        api: "messageDigest",
        path: "/get/messageDigest",
        title: "计算SM3摘要",
        request: &[required("input", Kind::Text)],
        response: &[output("output", Text)],
        codes: &[KMS_0107, KMS_0249],
        run: api::message_digest,
    },
];
