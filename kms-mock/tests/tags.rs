//! Tags: createTag, listTags, updateTag, deleteTag, bindTags, unbindTags, and the tags of createKey.

mod common;

use std::time::Duration;

use common::*;
use kms_mock::{MockConfig, MockKms, Storage};
use serde_json::{Value, json};

trait Tags {
    fn tag(&self, api: &str, body: Value) -> Answer;
    fn new_tag(&self, key: &str, value: &str) -> String;
    /// Key, value and count of every tag.
    fn tags(&self) -> Vec<(String, String, u64)>;
}

impl Tags for Client {
    fn tag(&self, api: &str, body: Value) -> Answer {
        self.call(&format!("/tagManage/{api}"), body)
    }

    fn new_tag(&self, key: &str, value: &str) -> String {
        self.tag("createTag", json!({"tagKey": key, "tagValue": value})).text("tagId")
    }

    fn tags(&self) -> Vec<(String, String, u64)> {
        let listed = self.tag("listTags", json!({"pageSize": 100}));
        let text = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
        let rows = listed.data()["tags"].as_array().expect("a list").iter();
        rows.map(|row| (text(row, "tagKey"), text(row, "tagValue"), row["resourceCount"].as_u64().expect("a number")))
            .collect()
    }
}

fn row(key: &str, value: &str, count: u64) -> (String, String, u64) {
    (key.to_owned(), value.to_owned(), count)
}

#[test]
fn create_list_update_and_delete() {
    let mock = start();
    let client = Client::new(&mock);
    let a = client.new_tag("a", "1");
    client.new_tag("a", "2");
    client.new_tag("b", "");
    client.new_tag(&"é".repeat(128), &"é".repeat(128));
    assert_eq!(client.tag("listTags", json!({"tagKey": "a"})).data()["totalCount"], 2);
    for body in [
        json!({"tagValue": "x"}),
        json!({"tagKey": "", "tagValue": "x"}),
        json!({"tagKey": "x"}),
        json!({"tagKey": "x".repeat(129), "tagValue": "x"}),
        json!({"tagKey": "x", "tagValue": "x".repeat(129)}),
        json!({"tagKey": "a", "tagValue": "1"}),
    ] {
        client.tag("createTag", body).refused(400, "KMS.0101");
    }
    for (changes, code) in [
        (json!({"pageNumber": 0}), "KMS.0101"),
        (json!({"pageSize": 101}), "KMS.0231"),
        (json!({"pageSize": 1001}), "KMS.0130"),
    ] {
        client.tag("listTags", changes).refused(400, code);
    }
    client.tag("updateTag", json!({"tagId": a, "tagValue": "3"})).data();
    client.tag("updateTag", json!({"tagId": a, "tagValue": "3"})).data();
    assert_eq!(client.tags()[..3], [row("a", "2", 0), row("a", "3", 0), row("b", "", 0)]);
    for body in [
        json!({"tagValue": "x"}),
        json!({"tagId": a}),
        json!({"tagId": "x", "tagValue": "x"}),
        json!({"tagId": NO_KEY, "tagValue": "x"}),
        json!({"tagId": a, "tagValue": "2"}),
        json!({"tagId": a, "tagValue": "x".repeat(129)}),
    ] {
        client.tag("updateTag", body).refused(400, "KMS.0101");
    }
    for id in [json!(null), json!("x"), json!(NO_KEY)] {
        client.tag("deleteTag", json!({"tagId": id})).refused(400, "KMS.0101");
    }
    client.tag("deleteTag", json!({"tagId": a})).data();
    client.tag("deleteTag", json!({"tagId": a})).refused(400, "KMS.0101");
    assert_eq!(client.tags().len(), 3);
}

#[test]
fn bind_and_unbind() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let (a1, a2, b) = (client.new_tag("a", "1"), client.new_tag("a", "2"), client.new_tag("b", "1"));
    let call =
        |api: &str, tags: &[&String]| client.tag(api, json!({"resourceType": "CMK", "resourceId": id, "tagIds": tags}));
    for _ in 0..2 {
        call("bindTags", &[&a1, &b]).data();
    }
    assert_eq!(client.tags(), [row("a", "1", 1), row("a", "2", 0), row("b", "1", 1)]);
    call("bindTags", &[&a2]).refused(400, "KMS.0101");
    client.tag("updateTag", json!({"tagId": b, "tagValue": "new"})).data();
    assert_eq!(client.tags()[2], row("b", "new", 1));
    for _ in 0..2 {
        call("unbindTags", &[&a1]).data();
    }
    // All or nothing.
    call("bindTags", &[&a1, &a2]).refused(400, "KMS.0101");
    assert_eq!(client.tags(), [row("a", "1", 0), row("a", "2", 0), row("b", "new", 1)]);
    call("bindTags", &[&a2]).data();
    client.tag("deleteTag", json!({"tagId": b})).data();
    assert_eq!(client.tags(), [row("a", "1", 0), row("a", "2", 1)]);

    let good = json!({"resourceType": "CMK", "resourceId": id, "tagIds": [a1]});
    for api in ["bindTags", "unbindTags"] {
        for (changes, status, code) in [
            (json!({"resourceType": null}), 400, "KMS.0101"),
            (json!({"resourceType": "KEY"}), 400, "KMS.0101"),
            (json!({"resourceId": null}), 400, "KMS.0101"),
            (json!({"resourceId": "x"}), 400, "KMS.0101"),
            (json!({"tagIds": null}), 400, "KMS.0101"),
            (json!({"tagIds": []}), 400, "KMS.0101"),
            (json!({"tagIds": [1]}), 400, "KMS.0101"),
            (json!({"tagIds": ["x"]}), 400, "KMS.0101"),
            (json!({"tagIds": [NO_KEY]}), 400, "KMS.0101"),
            (json!({"tagIds": vec![&a1; 21]}), 400, "KMS.0101"),
            (json!({"tagIds": "x"}), 400, "KMS.0128"),
            (json!({"resourceId": NO_KEY}), 404, "KMS.0301"),
            (json!({"resourceType": "CERTIFICATE"}), 404, "KMS.0309"),
        ] {
            client.tag(api, with(good.clone(), changes)).refused(status, code);
        }
    }
}

#[test]
fn a_resource_has_at_most_twenty() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let tags: Vec<_> = (0..21).map(|i| client.new_tag(&format!("k{i:02}"), "")).collect();
    let bind =
        |tags: &[String]| client.tag("bindTags", json!({"resourceType": "CMK", "resourceId": id, "tagIds": tags}));
    bind(&tags[..20]).data();
    bind(&tags[20..]).refused(400, "KMS.0101");
    bind(&tags[..20]).data();
}

#[test]
fn tags_of_a_new_key_are_tags_of_the_account() {
    let mock =
        MockKms::start(MockConfig { skew: Duration::from_secs(1 << 30), ..MockConfig::default() }).expect("starts");
    let client = Client::new(&mock);
    client.new_tag("a", "1");
    let tagged = |tags: Value| client.call(CREATE_KEY, with(new_key("AES_256"), json!({"tags": tags})));
    let pair = |key: &str, value: &str| json!({"tagKey": key, "tagValue": value});
    let id = tagged(json!([pair("a", "1"), pair("b", "2")])).text("cmkUuid");
    let other = tagged(json!([pair("a", "1")])).text("cmkUuid");
    assert_eq!(client.tags(), [row("a", "1", 2), row("b", "2", 1)]);
    for tags in [json!([pair("a", "1"), pair("a", "2")]), json!([pair("", "1")]), json!([pair(&"x".repeat(129), "1")])]
    {
        tagged(tags).refused(400, "KMS.0101");
    }
    assert_eq!(client.tags().len(), 2);
    // Whichever way a key goes, its tags stay behind unbound.
    mock.delete_now(&other).expect("deleted");
    assert_eq!(client.tags()[0], row("a", "1", 1));
    client.call(SCHEDULE, json!({"cmkUuid": id, "pendingWindowInDays": 7})).data();
    mock.advance_clock(Duration::from_secs(8 * 86_400));
    assert_eq!(client.tags(), [row("a", "1", 0), row("b", "2", 0)]);
}

#[test]
fn they_survive_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = Storage::Dir(directory.path().join("kms"));
    let start = || MockKms::start(MockConfig { data: data.clone(), ..MockConfig::default() }).expect("starts");
    let mock = start();
    let client = Client::new(&mock);
    client.call(CREATE_KEY, with(new_key("AES_256"), json!({"tags": [{"tagKey": "a", "tagValue": "1"}]}))).data();
    let gone = client.new_tag("gone", "");
    client.tag("deleteTag", json!({"tagId": gone})).data();
    let before = client.tag("listTags", json!({})).data().clone();
    mock.stop();
    let mock = start();
    let client = Client::new(&mock);
    assert_eq!(client.tag("listTags", json!({})).data(), &before);
    assert_eq!(client.tags(), [row("a", "1", 1)]);
}
