//! Access points: every API, and what the gate enforces for their credentials.

mod common;

use common::*;
use kms_mock::{Fault, FaultKind, MockConfig, MockKms, Storage};
use serde_json::{Value, json};

const VPC: &str = "6f1a3c52-0d84-4b7e-9a25-3e7c18d4f001";
const SUBNET: &str = "6f1a3c52-0d84-4b7e-9a25-3e7c18d4f101";

fn path(api: &str) -> String {
    format!("/accessPoint/{api}")
}

/// Somebody who calls the APIs of access points.
trait Admin {
    fn ap(&self, api: &str, body: Value) -> Answer;
    fn new_point(&self) -> String;
    /// A client with a new access key of the access point.
    fn new_client(&self, point: &str) -> Client;
}

impl Admin for Client {
    fn ap(&self, api: &str, body: Value) -> Answer {
        self.call(&path(api), body)
    }

    fn new_point(&self) -> String {
        let request = json!({"name": "point_1-A", "vpcId": VPC, "subnetId": SUBNET});
        self.ap("createAccessPoint", request).text("accessPointId")
    }

    fn new_client(&self, point: &str) -> Client {
        let made = self.ap("createAccessKey", json!({"accessPointId": point}));
        Client::with(&self.endpoint, &made.text("accessKey"), &made.text("secretKey"))
    }
}

/// The refusals of a field `accessPointId`, whatever else the request has.
fn pointref(client: &Client, api: &str, rest: Value) {
    for id in [json!(null), json!(""), json!("x"), json!(NO_KEY)] {
        client.ap(api, with(rest.clone(), json!({"accessPointId": id}))).refused(400, "KMS.0101");
    }
    client.ap(api, with(rest, json!({"accessPointId": 1}))).refused(400, "KMS.0128");
}

/// The refusals of a page.
fn paging(client: &Client, api: &str, rest: Value) {
    for (changes, code) in [
        (json!({"pageNumber": 0}), "KMS.0101"),
        (json!({"pageSize": 0}), "KMS.0231"),
        (json!({"pageSize": 101}), "KMS.0231"),
        (json!({"pageSize": 1001}), "KMS.0130"),
    ] {
        client.ap(api, with(rest.clone(), changes)).refused(400, code);
    }
}

#[test]
fn create_list_and_delete_access_points() {
    let mock = start();
    let client = Client::new(&mock);
    let good = json!({"name": "a", "vpcId": VPC, "subnetId": SUBNET, "instanceId": "i", "description": "d"});
    let made = client.ap("createAccessPoint", good.clone());
    let id = made.text("accessPointId");
    assert!(!made.text("endpoint").is_empty());
    client.new_point();
    let listed = client.ap("listAccessPoints", json!({"name": "a"}));
    assert_eq!(listed.data()["totalCount"], 1);
    let row = &listed.data()["accessPoints"][0];
    for (name, value) in [
        ("accessPointId", json!(id)),
        ("name", json!("a")),
        ("instanceId", json!("i")),
        ("vpcId", json!(VPC)),
        ("subnetId", json!(SUBNET)),
        ("endpoint", json!(made.text("endpoint"))),
        ("status", json!("Enabled")),
        ("permissionCheck", json!(false)),
    ] {
        assert_eq!(row[name], value, "{name}");
    }
    assert_eq!(client.ap("listAccessPoints", json!({"status": "Enabled"})).data()["totalCount"], 2);
    assert_eq!(client.ap("listAccessPoints", json!({"status": "Disabled"})).data()["totalCount"], 0);
    paging(&client, "listAccessPoints", json!({}));
    for changes in [
        json!({"name": null}),
        json!({"name": "a b"}),
        json!({"name": "é"}),
        json!({"name": "x".repeat(65)}),
        json!({"vpcId": null}),
        json!({"vpcId": SUBNET}),
        json!({"subnetId": null}),
        json!({"subnetId": VPC}),
        json!({"description": "x".repeat(8193)}),
    ] {
        client.ap("createAccessPoint", with(good.clone(), changes)).refused(400, "KMS.0101");
    }
    pointref(&client, "deleteAccessPoint", json!({}));
    let inside = client.new_client(&id);
    client.ap("deleteAccessPoint", json!({"accessPointId": id})).data();
    inside.call(LIST_KEYS, json!({})).refused(401, "KMS.0401");
    client.ap("listAccessKeys", json!({"accessPointId": id})).refused(400, "KMS.0101");
    for _ in 1..100 {
        client.new_point();
    }
    client.ap("createAccessPoint", good).refused(400, "KMS.0101");
}

#[test]
fn networks() {
    let mock = start();
    let client = Client::new(&mock);
    let vpcs = client.ap("listVpcs", json!({}));
    assert_eq!((&vpcs.data()["totalCount"], &vpcs.data()["vpcs"][0]["vpcId"]), (&json!(1), &json!(VPC)));
    let subnets = client.ap("listSubnets", json!({"vpcId": VPC}));
    assert_eq!((&subnets.data()["totalCount"], &subnets.data()["subnets"][0]["subnetId"]), (&json!(2), &json!(SUBNET)));
    paging(&client, "listVpcs", json!({}));
    paging(&client, "listSubnets", json!({"vpcId": VPC}));
    client.ap("listSubnets", json!({})).refused(400, "KMS.0101");
    client.ap("listSubnets", json!({"vpcId": SUBNET})).refused(400, "KMS.0101");
}

#[test]
fn access_keys_work_in_both_profiles() {
    let mock = start();
    let root = Client::new(&mock);
    let point = root.new_point();
    let inside = root.new_client(&point);
    let list = || root.ap("listAccessKeys", json!({"accessPointId": point}));
    assert_eq!(list().data()["accessKeys"][0]["lastUsedDate"], "");
    let id = inside.create("AES_256");
    assert_eq!(root.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("creator"), inside.access_key);
    assert_eq!(inside.call_eop(LIST_KEYS, json!({})).status, 200);
    let listed = list();
    let row = &listed.data()["accessKeys"][0];
    assert_eq!((&row["accessKey"], &row["status"]), (&json!(inside.access_key), &json!("Enabled")));
    assert!(row["lastUsedDate"].as_str().is_some_and(|date| !date.is_empty()));
    assert!(!listed.body.to_string().contains(&inside.secret_key));
    let wrong = Client::with(&mock.endpoint(), &inside.access_key, "wrong");
    wrong.call(LIST_KEYS, json!({})).refused(401, "KMS.0402");
    wrong.call_eop(LIST_KEYS, json!({})).refused(401, "KMS.0402");

    let named = json!({"accessPointId": point, "accessKey": inside.access_key});
    root.ap("deleteAccessKey", named.clone()).refused(400, "KMS.0101");
    for _ in 0..2 {
        root.ap("disableAccessKey", named.clone()).data();
    }
    assert_eq!(list().data()["accessKeys"][0]["status"], "Disabled");
    inside.call(LIST_KEYS, json!({})).refused(401, "KMS.0406");
    inside.call_eop(LIST_KEYS, json!({})).refused(401, "KMS.0406");
    root.ap("enableAccessKey", named.clone()).data();
    inside.call(LIST_KEYS, json!({})).data();
    root.ap("disableAccessKey", named.clone()).data();
    root.ap("deleteAccessKey", named.clone()).data();
    inside.call(LIST_KEYS, json!({})).refused(401, "KMS.0401");
    inside.call_eop(LIST_KEYS, json!({})).refused(401, "KMS.0401");
    root.ap("enableAccessKey", named).refused(400, "KMS.0101");
}

#[test]
fn access_keys_are_refused() {
    let mock = start();
    let root = Client::new(&mock);
    let (point, other) = (root.new_point(), root.new_point());
    let inside = root.new_client(&point);
    root.new_client(&point);
    root.new_client(&point);
    root.ap("createAccessKey", json!({"accessPointId": point})).refused(400, "KMS.0101");
    pointref(&root, "createAccessKey", json!({}));
    pointref(&root, "listAccessKeys", json!({}));
    paging(&root, "listAccessKeys", json!({"accessPointId": point}));
    for api in ["enableAccessKey", "disableAccessKey", "deleteAccessKey"] {
        pointref(&root, api, json!({"accessKey": inside.access_key}));
        for body in [
            json!({"accessPointId": point}),
            json!({"accessPointId": point, "accessKey": "nobody"}),
            json!({"accessPointId": other, "accessKey": inside.access_key}),
            json!({"accessPointId": point, "accessKey": root.access_key}),
        ] {
            root.ap(api, body).refused(400, "KMS.0101");
        }
    }
}

#[test]
fn nobody_removes_his_own_last_access_key() {
    let mock = start();
    let root = Client::new(&mock);
    let (point, other) = (root.new_point(), root.new_point());
    let (first, second, stranger) = (root.new_client(&point), root.new_client(&point), root.new_client(&other));
    let named = |client: &Client| json!({"accessPointId": point, "accessKey": client.access_key});
    first.ap("disableAccessKey", named(&second)).data();
    first.ap("disableAccessKey", named(&first)).refused(401, "KMS.0405");
    first.ap("deleteAccessPoint", json!({"accessPointId": point})).refused(401, "KMS.0405");
    first.ap("enableAccessKey", named(&second)).data();
    first.ap("disableAccessKey", named(&first)).data();
    second.ap("disableAccessKey", named(&second)).refused(401, "KMS.0405");
    stranger.ap("disableAccessKey", named(&second)).data();
    stranger.ap("deleteAccessPoint", json!({"accessPointId": point})).data();
}

#[test]
fn interface_permissions() {
    let mock = start();
    let root = Client::new(&mock);
    let point = root.new_point();
    let inside = root.new_client(&point);
    let id = root.create("AES_256");
    let enabled = || {
        root.ap("isPermissionCheckEnabled", json!({"accessPointId": point})).data()["enabled"]
            .as_bool()
            .expect("a flag")
    };
    let update = |apis: Value| root.ap("updateApiPermissions", json!({"accessPointId": point, "apis": apis}));
    assert!(!enabled());
    for apis in [
        json!(null),
        json!([]),
        json!([1]),
        json!([["encrypt", true]]),
        json!([{"apiName": "encrypt"}]),
        json!([{"apiName": "encrypt", "allowed": "yes"}]),
        json!([{"apiName": "nothing", "allowed": true}]),
        json!([{"apiName": "encrypt", "allowed": true}, {"apiName": "encrypt", "allowed": true}]),
    ] {
        update(apis).refused(400, "KMS.0101");
    }
    pointref(&root, "updateApiPermissions", json!({"apis": [{"apiName": "encrypt", "allowed": true}]}));
    assert!(!enabled());
    update(json!([
        {"apiName": "encrypt", "allowed": true}, {"apiName": "getTenantApiPermissions", "allowed": true},
        {"apiName": "decrypt", "allowed": false}
    ]))
    .data();
    assert!(enabled());
    let blob = inside.encrypt(&id, b"x").text("ciphertextBlob");
    inside.decrypt(&blob).refused(401, "KMS.0405");
    inside.call_eop(DECRYPT, json!({"ciphertextBlob": blob})).refused(401, "KMS.0405");
    inside.call(LIST_KEYS, json!({})).refused(401, "KMS.0405");
    root.decrypt(&blob).data();
    // Before the quota (step 9), and before the body (step 11).
    mock.set_quota(Some(0));
    inside.call(LIST_KEYS, json!({})).refused(401, "KMS.0405");
    mock.set_quota(None);
    inside.call(LIST_KEYS, json!({"pageSize": "x"})).refused(401, "KMS.0405");

    let allowed = |answer: &Answer| -> Vec<String> {
        let apis = answer.data()["apis"].as_array().expect("a list").clone();
        let allowed = apis.into_iter().filter(|row| row["allowed"] == true);
        allowed.map(|row| row["apiName"].as_str().expect("a name").to_owned()).collect()
    };
    let own = allowed(&inside.ap("getTenantApiPermissions", json!({})));
    assert_eq!(own, ["encrypt", "getTenantApiPermissions"]);
    let all = root.ap("getTenantApiPermissions", json!({}));
    assert_eq!(allowed(&all).len(), all.data()["apis"].as_array().expect("a list").len());
    let listed = root.ap("listApiPermissions", json!({"accessPointId": point, "pageSize": 100}));
    assert_eq!(allowed(&listed), own);
    let apis = listed.data()["apis"].as_array().expect("a list");
    assert!(apis.iter().any(|row| row["apiName"] == "encrypt" && row["servicePath"] == ENCRYPT));
    pointref(&root, "listApiPermissions", json!({}));
    paging(&root, "listApiPermissions", json!({"accessPointId": point}));

    pointref(&root, "disablePermissionCheck", json!({}));
    pointref(&root, "isPermissionCheckEnabled", json!({}));
    root.ap("disablePermissionCheck", json!({"accessPointId": point})).data();
    assert!(!enabled());
    inside.decrypt(&blob).data();
    // The lists were kept.
    update(json!([{"apiName": "listKeys", "allowed": true}])).data();
    inside.decrypt(&blob).refused(401, "KMS.0405");
    inside.call(LIST_KEYS, json!({})).data();
}

#[test]
fn resource_permissions() {
    let mock = start();
    let root = Client::new(&mock);
    let point = root.new_point();
    let inside = root.new_client(&point);
    let [mine, refused, unlisted] = [0; 3].map(|_| root.create("AES_256"));
    let update = |resources: Value| {
        root.ap("updateResourcePermissions", json!({"accessPointId": point, "resources": resources}))
    };
    let entry = |id: &str, allowed: bool| json!({"resourceType": "CMK", "resourceId": id, "allowed": allowed});
    for resources in [
        json!(null),
        json!([]),
        json!([[]]),
        json!([{"resourceType": "CMK", "resourceId": mine}]),
        json!([{"resourceType": "KEY", "resourceId": mine, "allowed": true}]),
        json!([{"resourceType": "CERTIFICATE", "resourceId": NO_KEY, "allowed": true}]),
        json!([entry("x", true)]),
        json!([entry(NO_KEY, true)]),
        json!([entry(&mine, true), entry(&mine, false)]),
    ] {
        update(resources).refused(400, "KMS.0101");
    }
    pointref(&root, "updateResourcePermissions", json!({"resources": [entry(&mine, true)]}));
    let blob = inside.encrypt(&unlisted, b"x").text("ciphertextBlob");
    update(json!([entry(&mine, true), entry(&refused, false)])).data();
    inside.encrypt(&mine, b"x").data();
    inside.encrypt(&refused, b"x").refused(401, "KMS.0405");
    inside.decrypt(&blob).refused(401, "KMS.0405");
    inside.call_eop(DESCRIBE_KEY, json!({"cmkUuid": unlisted})).refused(401, "KMS.0405");
    inside.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/ecs"})).refused(401, "KMS.0405");
    inside.encrypt(NO_KEY, b"x").refused(404, "KMS.0301");
    assert_eq!(inside.call(LIST_KEYS, json!({})).data()["totalCount"], 1);
    let tag = root.call("/tagManage/createTag", json!({"tagKey": "a", "tagValue": "b"})).text("tagId");
    for api in ["bindTags", "unbindTags"] {
        let body = json!({"resourceType": "CMK", "resourceId": unlisted, "tagIds": [tag]});
        inside.call(&format!("/tagManage/{api}"), body).refused(401, "KMS.0405");
    }

    let list = |rest: Value| root.ap("listResourcePermissions", with(json!({"accessPointId": point}), rest));
    assert_eq!(list(json!({})).data()["totalCount"], 2);
    assert_eq!(list(json!({"resourceType": "CERTIFICATE"})).data()["totalCount"], 0);
    let listed = list(json!({"resourceType": "CMK"}));
    let rows = listed.data()["resources"].as_array().expect("a list");
    assert!(rows.contains(&entry(&mine, true)) && rows.contains(&entry(&refused, false)));
    list(json!({"resourceType": "KEY"})).refused(400, "KMS.0101");
    pointref(&root, "listResourcePermissions", json!({}));
    paging(&root, "listResourcePermissions", json!({"accessPointId": point}));

    let of = |kind: &str, id: &str| {
        let body = json!({"accessPointId": point, "resourceType": kind, "resourceId": id});
        root.ap("getResourcePermission", body)
    };
    assert_eq!(of("CMK", &mine).data()["allowed"], true);
    assert!(of("CMK", &mine).data()["apis"].as_array().is_some_and(|apis| apis.contains(&json!("encrypt"))));
    assert_eq!(
        (&of("CMK", &refused).data()["allowed"], &of("CMK", &refused).data()["apis"]),
        (&json!(false), &json!([]))
    );
    assert_eq!(of("CMK", &unlisted).data()["allowed"], false);
    for (kind, id) in [("", &*mine), ("KEY", &mine), ("CMK", ""), ("CMK", NO_KEY), ("CERTIFICATE", NO_KEY)] {
        of(kind, id).refused(400, "KMS.0101");
    }
    pointref(&root, "getResourcePermission", json!({"resourceType": "CMK", "resourceId": mine}));

    // A list whose keys are gone does not become a list that allows everything.
    mock.delete_now(&mine).expect("deleted");
    mock.delete_now(&refused).expect("deleted");
    inside.encrypt(&unlisted, b"x").refused(401, "KMS.0405");
    root.ap("disablePermissionCheck", json!({"accessPointId": point})).data();
    inside.encrypt(&unlisted, b"x").data();
}

#[test]
fn white_list() {
    let mock = start();
    let root = Client::new(&mock);
    let point = root.new_point();
    let inside = root.new_client(&point);
    let add = |id: &str, cidr: &str| {
        let endpoint = json!({"endpointId": id, "cidr": cidr, "description": "d"});
        root.ap("addEndpointWhitelist", json!({"accessPointId": point, "endpoints": [endpoint]}))
    };
    for cidr in ["", "127.0.0.1", "127.0.0.1/8", "127.0.0.0/33", "127.0.0.0/08", "::1/129", "localhost/8"] {
        add("a", cidr).refused(400, "KMS.0101");
    }
    add("", "127.0.0.0/8").refused(400, "KMS.0101");
    add("a b", "127.0.0.0/8").refused(400, "KMS.0101");
    for endpoints in [json!(null), json!([]), json!([{"cidr": "127.0.0.0/8"}]), json!([{"endpointId": "a"}])] {
        let body = json!({"accessPointId": point, "endpoints": endpoints});
        root.ap("addEndpointWhitelist", body).refused(400, "KMS.0101");
    }
    pointref(&root, "addEndpointWhitelist", json!({"endpoints": [{"endpointId": "a", "cidr": "::/0"}]}));
    inside.call(LIST_KEYS, json!({})).data();
    add("a", "10.0.0.0/8").data();
    add("six", "::/0").data();
    inside.call(LIST_KEYS, json!({})).refused(401, "KMS.0405");
    inside.call_eop(LIST_KEYS, json!({})).refused(401, "KMS.0405");
    root.call(LIST_KEYS, json!({})).data();
    add("a", "127.0.0.0/8").data();
    inside.call(LIST_KEYS, json!({})).data();
    inside.call_eop(LIST_KEYS, json!({})).data_of_eop();
    let listed = root.ap("listEndpointWhitelist", json!({"accessPointId": point}));
    assert_eq!(listed.data()["totalCount"], 2);
    assert_eq!(listed.data()["endpoints"][0], json!({"endpointId": "a", "cidr": "127.0.0.0/8", "description": "d"}));
    pointref(&root, "listEndpointWhitelist", json!({}));
    paging(&root, "listEndpointWhitelist", json!({"accessPointId": point}));
    for i in 2..100 {
        add(&format!("e{i}"), "10.0.0.0/8").data();
    }
    add("one-too-many", "10.0.0.0/8").refused(400, "KMS.0101");
}

trait Eop {
    fn data_of_eop(&self);
}

impl Eop for Answer {
    fn data_of_eop(&self) {
        assert_eq!((self.status, &self.body["success"]), (200, &json!(1)), "{}", self.body);
    }
}

#[test]
fn quotas_count_per_access_key() {
    let mock = start();
    let root = Client::new(&mock);
    let inside = root.new_client(&root.new_point());
    mock.set_quota(Some(3));
    let refused = (0..50).filter(|_| inside.call(LIST_KEYS, json!({})).code() == "kms.0407").count();
    assert!(refused > 0);
    assert_eq!(root.call(LIST_KEYS, json!({})).status, 200);
}

#[test]
fn faults_reach_them() {
    let mock = start();
    let root = Client::new(&mock);
    let kind = FaultKind::Code("KMS.0503".into());
    mock.inject(Fault { api: Some("createAccessPoint".into()), times: 1, kind });
    let request = json!({"name": "a", "vpcId": VPC, "subnetId": SUBNET});
    root.ap("createAccessPoint", request).refused(500, "KMS.0503");
    assert_eq!(root.ap("listAccessPoints", json!({})).data()["totalCount"], 0);
}

#[test]
fn they_survive_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = Storage::Dir(directory.path().join("kms"));
    let start = || MockKms::start(MockConfig { data: data.clone(), ..MockConfig::default() }).expect("starts");
    let mock = start();
    let root = Client::new(&mock);
    let (point, gone) = (root.new_point(), root.new_point());
    let (inside, disabled, lost) = (root.new_client(&point), root.new_client(&point), root.new_client(&gone));
    let id = root.create("AES_256");
    root.ap("disableAccessKey", json!({"accessPointId": point, "accessKey": disabled.access_key})).data();
    root.ap("deleteAccessPoint", json!({"accessPointId": gone})).data();
    let resources = json!([{"resourceType": "CMK", "resourceId": id, "allowed": true}]);
    root.ap("updateResourcePermissions", json!({"accessPointId": point, "resources": resources})).data();
    let apis = json!([{"apiName": "generateDataKey", "allowed": true}]);
    root.ap("updateApiPermissions", json!({"accessPointId": point, "apis": apis})).data();
    let endpoints = json!([{"endpointId": "a", "cidr": "127.0.0.0/8"}]);
    root.ap("addEndpointWhitelist", json!({"accessPointId": point, "endpoints": endpoints})).data();
    let before = root.ap("listAccessPoints", json!({})).data().clone();
    mock.stop();

    let mock = start();
    let root = Client::new(&mock);
    let again = |client: &Client| Client::with(&mock.endpoint(), &client.access_key, &client.secret_key);
    assert_eq!(root.ap("listAccessPoints", json!({})).data(), &before);
    let inside = again(&inside);
    inside.data_key(&id).data();
    inside.data_key("alias/ecs").refused(401, "KMS.0405");
    inside.call(LIST_KEYS, json!({})).refused(401, "KMS.0405");
    again(&disabled).data_key(&id).refused(401, "KMS.0406");
    again(&lost).data_key(&id).refused(401, "KMS.0401");
    assert_eq!(root.ap("listEndpointWhitelist", json!({"accessPointId": point})).data()["totalCount"], 1);
}
