// The console of kms-mock: shows what the mock holds and does, and makes trouble. Texts are in i18n.js.
//
// Every request carries the header X-Console-Token with the token of the page. Answers are JSON; a refusal is a 4xx status with
// {"error": "…", "code": "KMS.0207"} (code only where the service has one). Paths are relative to the page.
//
//   GET  api/state           {"now", "started", "switches": {…}, "faults": [{"id", "api"|null, "times" (-1: until cleared), "what"}],
//                             "latency": [{"api"|null, "what"}], "quota": n|null, "keys": [{cmkUuid, keyState, keySpec, keyUsage, origin,
//                             protectionLevel, description, creationDate, deleteDate, aliases: [..],
//                             versions: [{keyVersionId, creationDate, primary}], uses, automaticRotation, rotationInterval,
//                             nextRotationDate, isDefault, deletionProtection}],
//                             "certificates": [{certificateId, kind: "KMS"|"UKEY", status, subject, issuer, notBefore, notAfter, keySpec}],
//                             "accessPoints": [{accessPointId, name, status, permissionCheck, accessKeys: [{accessKey, status}],
//                             apis, resources, endpoints}], "apis": [..], "codes": [..]}
//   GET  api/calls?since=N   {"next": M, "calls": [{no, at, api, access_key, status|null, code|null, message, ms|null}],
//                             "counts": {api: n}}. `next` is the N of the next request and means nothing else to the page. A call that
//                             was still without an answer may come again under its `no`; it then replaces the row.
//                             Numbers go up by one: a gap before the first new call is what was left out of this answer.
//   POST api/keys/ID/ACTION  enable, disable, rotate, cancel-deletion; schedule-deletion with {"pendingWindowInDays": 7 to 30}
//   POST api/faults          as /__mock/faults;  DELETE api/faults
//   POST api/clock           {"advance_s": n} or {"set": "…Z"}
//   POST api/switches        some of the switches
//   POST api/quota           {"per_second": n|null}
//   POST api/latency         {"api": name|null, "kind": "fixed", "ms": n} or {"api": name|null, "kind": null}
//
// What comes from the mock reaches the page as text only (textContent, dataset), never as markup.

import { chooseLanguage, currentLanguage, has, number, t, translate } from "./i18n.js";

const STATE_EVERY_MS = 2000;
const CALLS_EVERY_MS = 1000;
const ANSWER_WITHIN_MS = 10_000;
// A poll may take up this part of the time of the mock, which has one thread.
const POLL_SHARE = 0.1;
const CALLS_KEPT = 500;
const HTTP_STATUSES = [429, 500, 502, 503, 504];
const FAULT_KINDS = [
  "delay", "hang", "drop", "reset", "drop_after", "truncate_body", "oversized_body", "empty_body", "not_json", "content_type", "gzip",
  "lying_plaintext", "short_plaintext", "lying_blob", "lying_key_id", "without_field",
];
const TABS = ["keys", "calls", "certificates", "access-points", "trouble"];

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------------------------------------- Elements

// An element with attributes (class, data-…, aria-…; `on` holds listeners) and children: elements or texts.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function cell(name, ...children) {
  return h("td", { role: "cell", class: name }, ...children);
}

// Changing nothing where nothing changed keeps selections and spares the layout.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A distinguished name breaks between its parts.
function setName(element, text) {
  if (element.textContent === text) return;
  element.replaceChildren(...text.split(/(?<=,)/).flatMap((part) => [part, h("wbr")]));
}

function setData(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

function setHidden(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

// Hides or shows one of two buttons in the same place without losing the focus.
function swap(shown, hidden) {
  const focused = document.activeElement === hidden;
  shown.hidden = false;
  hidden.hidden = true;
  if (focused) shown.focus();
}

// A control's value follows the mock unless somebody is about to change it.
function follow(control, value) {
  if (control === document.activeElement || control.dataset.dirty) return;
  if (control.type === "checkbox") control.checked = value;
  else if (control.value !== String(value)) control.value = value;
}

function markDirty(control) {
  control.addEventListener("input", () => (control.dataset.dirty = "1"));
  return control;
}

function copyButton(text) {
  return h("button", {
    type: "button", class: "copy", "data-copy": text,
    on: {
      click: async (event) => {
        event.stopPropagation();
        const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
        if (copied) say("ok", t("copied", { what: text }));
        else say("error", t("notCopied"));
      },
    },
  });
}

function labelCopy(row) {
  for (const button of row.querySelectorAll(".copy")) {
    const label = t("copy", { what: button.dataset.copy });
    button.setAttribute("aria-label", label);
    button.title = label;
  }
}

// 2026-10-01T12:34:56Z → 2026-10-01 12:34:56
function time(iso) {
  return iso ? iso.replace("T", " ").replace(/(\.\d+)?Z$/, "") : "";
}

function day(iso) {
  return iso ? iso.slice(0, 10) : "";
}

function short(id) {
  return id.length > 13 ? `${id.slice(0, 8)}…` : id;
}

// Keeps the rows of a table in the order of `items`, each row made once and changed in place.
class Rows {
  #body;
  #make;
  #rows = new Map();

  // `make(item)` returns {elements: [tr, …], update(item)}.
  constructor(body, make) {
    this.#body = body;
    this.#make = make;
  }

  show(items, idOf) {
    const wanted = new Set(items.map(idOf));
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      for (const element of row.elements) element.remove();
      this.#rows.delete(id);
    }
    let next = this.#body.firstElementChild;
    for (const item of items) {
      const id = idOf(item);
      let row = this.#rows.get(id);
      if (!row) this.#rows.set(id, (row = this.#make(item)));
      for (const element of row.elements) {
        if (element === next) next = next.nextElementSibling;
        else this.#body.insertBefore(element, next);
      }
      const seen = currentLanguage() + JSON.stringify(item);
      if (row.seen !== seen) row.update(item);
      row.seen = seen;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------- Messages

let messageTimer;

function say(kind, text) {
  clearTimeout(messageTimer);
  $("message").dataset.kind = text ? kind : "none";
  $("message-text").textContent = text;
  $("message-close").hidden = !text;
  if (text && kind === "ok") messageTimer = setTimeout(() => say("none", ""), 5000);
}

// ----------------------------------------------------------------------------------------------------------------- The API

class Refused extends Error {
  constructor(status, answer) {
    super([answer.code, answer.error ?? `HTTP ${status}`].filter(Boolean).join(" "));
    this.status = status;
    this.code = answer.code;
  }
}

const token = document.querySelector('meta[name="console-token"]').content;

async function request(method, path, body) {
  const response = await fetch(`api/${path}`, {
    method,
    headers: { "X-Console-Token": token, ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
    cache: "no-store",
    redirect: "error",
    signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}

// Does what a button stands for: asks, shows the new state, says how it went. `what` names it in an error.
async function act(what, method, path, body, done) {
  let failure;
  try {
    await request(method, path, body);
  } catch (error) {
    failure = error instanceof Refused ? error.message : t("unreachable");
  }
  await refresh();
  if (failure) say("error", t("failed", { what, why: failure }));
  else say("ok", done);
  return !failure;
}

// One action at a time for each button, without disabling it, which would lose the focus.
function busy(button, run) {
  return async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    try {
      await run(event);
    } finally {
      button.removeAttribute("aria-busy");
    }
  };
}

function onClick(id, run) {
  $(id).addEventListener("click", busy($(id), run));
}

function onSubmit(id, run) {
  $(id).addEventListener("submit", busy($(id), run));
}

// ----------------------------------------------------------------------------------------------------------- State and polls

let state;
// How far the mock's clock is ahead of the browser's, in seconds. Both are on one machine as a rule.
let ahead;
let connection = "connecting";
let refreshing;
let refreshAgain = false;

// Fetches and shows the state. Whoever calls while one is under way waits for a later one, which knows what was just done.
function refresh() {
  if (refreshing) {
    refreshAgain = true;
    return refreshing;
  }
  refreshing = (async () => {
    try {
      do {
        refreshAgain = false;
        await fetchState();
      } while (refreshAgain);
    } finally {
      refreshing = undefined;
    }
  })();
  return refreshing;
}

async function fetchState() {
  try {
    state = await request("GET", "state");
    measureClock();
    connected("connected");
  } catch (error) {
    failedPoll(error);
    return;
  }
  showState();
}

function failedPoll(error) {
  const refused = error instanceof Refused;
  // The token dies with the process it belongs to.
  connected(refused && (error.status === 401 || error.status === 403) ? "stale" : "lost");
}

function connected(how) {
  connection = how;
  setText($("connection"), t(how));
  setData($("connection"), "state", how);
  setData(document.body, "connection", how);
  $("reload").hidden = how !== "stale";
}

// Runs `poll` every so often while `wanted()`, later if the mock is slow.
async function pollEvery(period, wanted, poll) {
  for (;;) {
    const began = performance.now();
    if (wanted() && !document.hidden && connection !== "stale") await poll();
    await new Promise((go) => setTimeout(go, Math.max(period, (performance.now() - began) / POLL_SHARE)));
  }
}

function showState() {
  showApis();
  showKeys();
  showCertificates();
  showAccessPoints();
  showTrouble();
  showClock();
}

// The mock tells whole seconds, cut off: half a second is added on the average. One second more or less is the time of the answer.
function measureClock() {
  const measured = Math.round((Date.parse(state.now) + 500 - Date.now()) / 1000);
  if (ahead === undefined || Math.abs(measured - ahead) > 1) ahead = Math.abs(measured) > 1 ? measured : 0;
}

function mockNow() {
  return Date.now() + ahead * 1000;
}

function showClock() {
  if (!state) return;
  const iso = new Date(mockNow()).toISOString().replace(/\.\d+Z$/, "Z");
  setText($("now"), `${time(iso)} UTC`);
  $("now").dateTime = iso;
  $("now").title = t("startedAt", { at: time(state.started) });
  setHidden($("clock-shift"), ahead === 0);
  setText($("clock-shift"), span(ahead));
  setHidden($("clock-skewed"), Math.abs(ahead) <= state.switches.skew_s);
}

// 90061 s → +1 d 1 h
function span(seconds) {
  const parts = [];
  let rest = Math.abs(seconds);
  for (const [unit, length] of [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count > 0 && parts.length < 2) parts.push(`${count} ${unit}`);
  }
  return (seconds < 0 ? "−" : "+") + parts.join(" ");
}

// Fills every choice of an API, once for each list of APIs and language.
let apisShown;
function showApis() {
  const seen = currentLanguage() + state.apis.join() + state.codes.join();
  if (apisShown === seen) return;
  apisShown = seen;
  const apis = [...state.apis].sort((a, b) => a.localeCompare(b));
  for (const select of document.querySelectorAll("[data-apis]")) {
    refill(select, [h("option", { value: "" }, t("anyApi")), ...apis.map((api) => h("option", { value: api }, api))]);
  }
  const options = (values, textOf, valueOf = (value) => value) => values.map((value) => h("option", { value: valueOf(value) }, textOf(value)));
  refill($("fault-code"), [
    h("optgroup", { label: t("groupKinds") }, ...options(FAULT_KINDS, (kind) => t(`kind_${kind}`))),
    h("optgroup", { label: t("groupStatus") }, ...options(HTTP_STATUSES, String, (status) => `http_${status}`)),
    h("optgroup", { label: t("groupCodes") }, ...options(state.codes, (code) => code)),
  ], "KMS.0513");
  showFaultFields();
}

function refill(select, options, preferred) {
  const chosen = select.value || preferred;
  select.replaceChildren(...options);
  if (chosen !== undefined) select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

// -------------------------------------------------------------------------------------------------------------------- Keys

const keyRows = new Rows($("keys-body"), makeKeyRow);

function showKeys() {
  const keys = [...state.keys].sort((a, b) => b.creationDate.localeCompare(a.creationDate) || a.cmkUuid.localeCompare(b.cmkUuid));
  keyRows.show(keys, (key) => key.cmkUuid);
  setText($("count-keys"), number(keys.length));
  filterKeys();
}

function filterKeys() {
  const words = $("keys-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of $("keys-body").querySelectorAll("tr.key")) {
    const matches = words.every((word) => row.searchText.includes(word));
    setHidden(row, !matches);
    setHidden(row.detail, !matches || !row.expanded);
    if (matches) shown += 1;
  }
  setText($("keys-shown"), state ? t("shownOf", { shown: number(shown), all: number(state.keys.length) }) : "");
  $("keys-empty").hidden = !state || shown > 0;
}

function makeKeyRow({ cmkUuid: id }) {
  const detailId = `key-detail-${id}`;
  const expand = h("button", { type: "button", class: "expand", "aria-expanded": "false", "aria-controls": detailId, "data-testid": `key-expand-${id}` });
  const names = h("div", { class: "names" });
  const badge = h("span", { class: "badge", "data-testid": `key-state-${id}` });
  const stateNote = h("small");
  const type = [h("span"), h("small")];
  const versions = [h("span", { "data-testid": `key-versions-${id}` }), h("small"), h("small")];
  const uses = h("span", { "data-testid": `key-uses-${id}` });
  const button = (name, run) => {
    const element = h("button", { type: "button", class: "small", "data-testid": `key-${name}-${id}` });
    element.addEventListener("click", busy(element, run));
    return element;
  };
  const buttons = {
    disable: button("disable", () => keyAction(id, "disable", "disable", "didDisable")),
    enable: button("enable", () => keyAction(id, "enable", "enable", "didEnable")),
    rotate: button("rotate", () => keyAction(id, "rotate", "rotate", "didRotate")),
    remove_key: button("delete", () => scheduleDeletion(id)),
    cancelDeletion: button("cancel-deletion", () => cancelDeletion(id)),
  };
  const row = h("tr", { role: "row", class: "key", "data-testid": `key-row-${id}` },
    cell("c-key", h("div", { class: "key-name" }, expand, h("div", { class: "identity" }, h("span", { class: "id" }, h("code", {}, id), copyButton(id)), names))),
    cell("c-state", badge, stateNote),
    cell("c-type", ...type),
    cell("c-versions", ...versions),
    cell("c-uses num", uses),
    cell("c-actions", h("div", { class: "buttons" }, ...Object.values(buttons))));
  const detail = h("tr", { role: "row", class: "detail", id: detailId, hidden: "" });
  row.detail = detail;
  row.expanded = false;
  let key;
  expand.addEventListener("click", () => {
    row.expanded = !row.expanded;
    expand.setAttribute("aria-expanded", row.expanded);
    if (row.expanded) showKeyDetail(detail, key);
    detail.hidden = !row.expanded;
  });

  const update = (changed) => {
    key = changed;
    row.dataset.state = key.keyState;
    expand.setAttribute("aria-label", t("details", { id }));
    badge.dataset.state = key.keyState;
    setText(badge, stateText("state", key.keyState));
    setText(stateNote, key.keyState === "PendingDeletion" && key.deleteDate ? t("until", { at: day(key.deleteDate) }) : "");
    stateNote.title = key.deleteDate ?? "";
    setText(type[0], key.keySpec);
    setText(type[1], [key.protectionLevel, key.origin === "EXTERNAL" ? key.origin : ""].filter(Boolean).join(" · "));
    setText(versions[0], key.versions.length === 1 ? t("oneVersion") : t("nVersions", { n: number(key.versions.length) }));
    setText(versions[1], rotationText(key));
    setText(versions[2], key.automaticRotation === "Enabled" ? t("nextOn", { at: day(key.nextRotationDate) }) : "");
    setText(uses, number(key.uses));
    uses.dataset.value = key.uses;
    names.replaceChildren(...keyNames(key));
    updateKeyButtons(buttons, key);
    label(row);
    labelCopy(row);
    row.searchText = [
      id, key.keyState, badge.textContent, key.keySpec, key.keyUsage, key.protectionLevel, key.origin, key.description,
      ...key.aliases, ...key.versions.map((version) => version.keyVersionId),
    ].join("\n").toLowerCase();
    if (row.expanded) showKeyDetail(detail, key);
  };
  return { elements: [row, detail], update };
}

// Names the cells for the narrow layout, where the header of the table is not seen.
function label(row) {
  const headers = row.closest("table")?.tHead.rows[0].cells ?? [];
  for (let at = 0; at < headers.length && at < row.cells.length; at += 1) row.cells[at].dataset.label = headers[at].textContent;
}

function stateText(prefix, value) {
  return has(prefix + value) ? t(prefix + value) : value;
}

function rotationText(key) {
  if (key.automaticRotation === "Suspended") return t("rotationSuspended");
  if (key.automaticRotation !== "Enabled") return "";
  return t("rotatesEvery", { days: key.rotationInterval });
}

function keyNames(key) {
  const chips = key.aliases.map((alias) => h("span", { class: "chip mono" }, alias));
  if (key.isDefault) chips.push(h("span", { class: "badge quiet", title: t("defaultKeyHint") }, t("defaultKey")));
  if (key.deletionProtection === "Enabled") chips.push(h("span", { class: "badge quiet", title: t("protectedHint") }, t("protected")));
  if (key.description) chips.push(h("span", { class: "description", title: key.description }, key.description));
  return chips;
}

// Offers what the table of states (KMS.0203, KMS.0207, KMS.0211, KMS.0230) and the kind of the key allow. The mock has the last word.
function updateKeyButtons(buttons, key) {
  const pending = key.keyState === "PendingDeletion";
  const enabled = key.keyState === "Enabled";
  for (const [name, button] of Object.entries(buttons)) {
    setText(button, t(name));
    button.setAttribute("aria-label", `${t(name).replace("…", "")} ${key.cmkUuid}`);
  }
  if (key.keyState === "Disabled") swap(buttons.enable, buttons.disable);
  else swap(buttons.disable, buttons.enable);
  if (pending) swap(buttons.cancelDeletion, buttons.remove_key);
  else swap(buttons.remove_key, buttons.cancelDeletion);
  const reason = key.isDefault ? "defaultKeyHint" : undefined;
  forbid(buttons.disable, reason ?? (enabled ? undefined : "notInThisState"));
  const external = key.origin === "EXTERNAL" ? "externalHint" : undefined;
  forbid(buttons.rotate, reason ?? external ?? (enabled ? undefined : "notInThisState"));
  forbid(buttons.remove_key, reason ?? (key.deletionProtection === "Enabled" ? "protectedHint" : undefined));
}

function forbid(button, reason) {
  button.disabled = reason !== undefined;
  button.title = reason ? t(reason) : "";
}

function showKeyDetail(detail, key) {
  const facts = [
    ["created", time(key.creationDate)],
    ["deletion", time(key.deleteDate)],
    ["usage", key.keyUsage],
    ["protectionLevel", key.protectionLevel],
    ["origin", key.origin],
    ["automaticRotation", key.automaticRotation],
    ["nextRotation", time(key.nextRotationDate)],
    ["deletionProtection", key.deletionProtection],
    ["aliases", key.aliases.join(", ")],
    ["description", key.description],
  ].filter(([, value]) => value);
  const header = h("tr", { role: "row" }, ...["version", "created"].map((name) => h("th", { role: "columnheader", scope: "col" }, t(name))));
  const newestFirst = [...key.versions].sort((a, b) => b.creationDate.localeCompare(a.creationDate) || b.primary - a.primary);
  const versions = newestFirst.map((version) => h("tr", { role: "row" },
    cell("", h("span", { class: "id" }, h("code", {}, version.keyVersionId), copyButton(version.keyVersionId)),
      ...(version.primary ? [" ", h("span", { class: "badge quiet" }, t("primary"))] : [])),
    cell("mono", time(version.creationDate))));
  detail.replaceChildren(h("td", { role: "cell", colspan: "6" }, h("div", { class: "detail-body" },
    h("dl", {}, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, t(name)), h("dd", {}, value)))),
    h("table", { role: "table", class: "plain", "aria-label": t("versions") },
      h("thead", { role: "rowgroup" }, header), h("tbody", { role: "rowgroup" }, ...versions)))));
  labelCopy(detail);
}

function keyAction(id, action, what, done, body) {
  const named = `${t(what).replace("…", "")} ${short(id)}`;
  return act(named, "POST", `keys/${encodeURIComponent(id)}/${action}`, body, t(done, { id: short(id) }));
}

async function scheduleDeletion(id) {
  if (await confirmed(id, "confirmSchedule", "confirmScheduleText", true)) {
    await keyAction(id, "schedule-deletion", "confirmSchedule", "didSchedule", { pendingWindowInDays: $("confirm-days").valueAsNumber });
  }
}

async function cancelDeletion(id) {
  if (await confirmed(id, "confirmCancel", "confirmCancelText", false)) {
    await keyAction(id, "cancel-deletion", "confirmCancel", "didCancel");
  }
}

function confirmed(id, title, text, withDays) {
  const dialog = $("confirm");
  setText($("confirm-title"), t(title));
  setText($("confirm-key"), id);
  setText($("confirm-text"), t(text));
  setText($("confirm-ok"), t(title));
  $("confirm-days-field").hidden = !withDays;
  // A hidden field that is not valid would hold the form back.
  $("confirm-days").disabled = !withDays;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => dialog.addEventListener("close", () => answer(dialog.returnValue === "ok"), { once: true }));
}

$("confirm-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("confirm").close("ok");
});
$("confirm-cancel").addEventListener("click", () => $("confirm").close());
$("keys-filter").addEventListener("input", filterKeys);

// ------------------------------------------------------------------------------------------------------------------- Calls

// By number: {call, row}.
const calls = new Map();
let callsNext = 0;
let callsHighest = 0;
let callsMissed = 0;
let paused = false;
let pollingCalls;

function pollCalls() {
  pollingCalls ??= fetchCalls().finally(() => (pollingCalls = undefined));
  return pollingCalls;
}

async function fetchCalls() {
  let answer;
  try {
    answer = await request("GET", `calls?since=${callsNext}`);
  } catch (error) {
    failedPoll(error);
    return;
  }
  connected("connected");
  // Numbers that go back belong to another life of the mock.
  if (answer.next < callsNext) forgetCalls();
  callsNext = answer.next;
  addCalls(answer.calls);
  showCounts(answer.counts);
  filterCalls();
}

function forgetCalls() {
  for (const { row } of calls.values()) row.remove();
  calls.clear();
  callsHighest = 0;
  callsMissed = 0;
}

function addCalls(news) {
  const sorted = [...news].sort((a, b) => a.no - b.no);
  const fresh = sorted.filter((call) => call.no > callsHighest);
  if (fresh.length > 0) {
    callsMissed += fresh[0].no - callsHighest - 1;
    callsHighest = fresh.at(-1).no;
  }
  for (const call of sorted.slice(-CALLS_KEPT)) {
    const known = calls.get(call.no);
    if (known) {
      known.call = call;
      fillCallRow(known.row, call);
      continue;
    }
    const row = makeCallRow();
    calls.set(call.no, { call, row });
    $("calls-body").prepend(row);
    label(row);
    fillCallRow(row, call);
  }
  for (const [no, { row }] of calls) {
    if (calls.size <= CALLS_KEPT) break;
    row.remove();
    calls.delete(no);
  }
}

function makeCallRow() {
  return h("tr", { role: "row", "data-testid": "call-row" },
    cell("c-no num mono"), cell("c-at mono"), cell("c-api mono"), cell("c-result", h("span", { class: "badge" }), h("small")),
    cell("c-message"), cell("c-ak mono"), cell("c-ms num mono"));
}

function fillCallRow(row, call) {
  const [no, at, api, result, message, accessKey, ms] = row.cells;
  const [code, status] = result.children;
  setData(row, "api", call.api);
  setData(row, "code", call.code ?? "");
  setData(row, "result", outcome(call));
  setText(no, String(call.no));
  setText(at, time(call.at));
  setText(api, call.api);
  setText(code, call.code ?? t("unanswered"));
  setText(status, call.status === null ? "" : String(call.status));
  // Of a success the code says it all.
  setText(message, outcome(call) === "ok" ? "" : call.message ?? "");
  setText(accessKey, call.access_key ?? "");
  accessKey.title = call.access_key ?? "";
  setText(ms, call.ms === null || call.ms === undefined ? "" : call.ms.toFixed(call.ms < 1 ? 2 : 1));
}

// The code decides: with soft errors every status is 200.
function outcome(call) {
  if (call.code === null && call.status === null) return "none";
  if (call.code === "0") return "ok";
  return call.status >= 500 || call.code === null ? "server-error" : "error";
}

function filterCalls() {
  const api = $("calls-api").value;
  const failures = $("calls-failures").checked;
  let shown = 0;
  for (const { call, row } of calls.values()) {
    const matches = (!api || call.api === api) && (!failures || outcome(call) !== "ok");
    setHidden(row, !matches);
    if (matches) shown += 1;
  }
  const missed = callsMissed > 0 ? "callsShownMissed" : "callsShown";
  setText($("calls-shown"), t(missed, { shown: number(shown), missed: number(callsMissed) }));
  $("calls-empty").hidden = shown > 0;
}

let lastCounts = {};
function showCounts(counts) {
  lastCounts = counts;
  const names = Object.keys(counts).sort((a, b) => a.localeCompare(b));
  countRows.show(names.map((api) => ({ api, count: counts[api] })), (entry) => entry.api);
}

const countRows = new Rows($("calls-counts"), () => {
  const name = h("span", { class: "mono" });
  const count = h("strong");
  return {
    elements: [h("li", { class: "chip" }, name, " ", count)],
    update: (entry) => {
      setText(name, entry.api);
      setText(count, number(entry.count));
    },
  };
});

function showPause() {
  $("calls-pause").setAttribute("aria-pressed", paused);
  setText($("calls-pause"), t(paused ? "resume" : "pause"));
}

$("calls-pause").addEventListener("click", () => {
  paused = !paused;
  showPause();
});
$("calls-api").addEventListener("change", filterCalls);
$("calls-failures").addEventListener("change", filterCalls);

// ------------------------------------------------------------------------------------------- Certificates and access points

const certificateRows = new Rows($("certificates-body"), ({ certificate: { certificateId: id } }) => {
  const [kind, badge, subject, issuer, from, to, spec] = ["span", "span", "span", "small", "span", "span", "span"].map((tag) => h(tag));
  badge.className = "badge";
  const row = h("tr", { role: "row", "data-testid": `certificate-row-${id}` },
    cell("c-key", h("span", { class: "id" }, h("code", {}, id), copyButton(id))),
    cell("c-kind", kind), cell("c-state", badge), cell("c-names", subject, issuer),
    cell("c-valid mono", from, to), cell("c-spec", spec));
  const update = ({ certificate, validity }) => {
    setText(kind, certificate.kind);
    badge.dataset.state = certificate.status;
    setText(badge, stateText("cert", certificate.status));
    setName(subject, certificate.subject ?? "");
    setName(issuer, certificate.issuer ? t("issuedBy", { issuer: certificate.issuer }) : "");
    setText(from, certificate.notBefore ? t("validFrom", { at: day(certificate.notBefore) }) : "");
    setText(to, certificate.notAfter ? t("validTo", { at: day(certificate.notAfter) }) : "");
    to.replaceChildren(to.textContent, ...(validity ? [" ", h("span", { class: "badge warn" }, t(validity))] : []));
    row.cells[4].title = [certificate.notBefore, certificate.notAfter].filter(Boolean).join(" – ");
    setText(spec, certificate.keySpec ?? "");
    label(row);
    labelCopy(row);
  };
  return { elements: [row], update };
});

function showCertificates() {
  // By the clock of the mock.
  const validity = (certificate) => {
    if (certificate.notAfter && Date.parse(certificate.notAfter) < mockNow()) return "expired";
    if (certificate.notBefore && Date.parse(certificate.notBefore) > mockNow()) return "notYetValid";
    return undefined;
  };
  const items = state.certificates.map((certificate) => ({ certificate, validity: validity(certificate) }));
  certificateRows.show(items, (item) => item.certificate.certificateId);
  setText($("count-certificates"), number(items.length));
  $("certificates-empty").hidden = items.length > 0;
}

const accessPointRows = new Rows($("access-points-body"), ({ accessPointId: id }) => {
  const name = h("strong");
  const [status, check] = [h("span", { class: "badge" }), h("span", { class: "badge" })];
  const accessKeys = h("ul", { class: "access-keys" });
  const counts = [h("span"), h("span"), h("span")];
  const row = h("tr", { role: "row", "data-testid": `access-point-row-${id}` },
    cell("c-key", h("div", { class: "title" }, name, " ", status), h("span", { class: "id" }, h("code", {}, id), copyButton(id))),
    cell("c-check", check), cell("c-aks", accessKeys),
    ...counts.map((count) => cell("num", count)));
  const update = (point) => {
    setText(name, point.name);
    status.dataset.state = point.status;
    setText(status, stateText("state", point.status));
    check.dataset.state = point.permissionCheck ? "Enabled" : "off";
    setText(check, t(point.permissionCheck ? "on" : "off"));
    accessKeys.replaceChildren(...point.accessKeys.map((key) => h("li", {},
      h("span", { class: "id" }, h("code", { title: key.accessKey }, key.accessKey), copyButton(key.accessKey)), " ",
      h("span", { class: "badge", "data-state": key.status }, stateText("state", key.status)))));
    [point.apis, point.resources, point.endpoints].forEach((count, at) => setText(counts[at], number(count)));
    label(row);
    labelCopy(row);
  };
  return { elements: [row], update };
});

function showAccessPoints() {
  accessPointRows.show(state.accessPoints, (point) => point.accessPointId);
  setText($("count-access-points"), number(state.accessPoints.length));
  $("access-points-empty").hidden = state.accessPoints.length > 0;
}

// ----------------------------------------------------------------------------------------------------------------- Trouble

const faultRows = new Rows($("faults-body"), () => {
  const cells = [cell("mono"), cell("mono"), cell("num")];
  return {
    elements: [h("tr", { role: "row", "data-testid": "fault-row" }, ...cells)],
    update: (fault) => {
      setText(cells[0], has(`kind_${fault.what}`) ? t(`kind_${fault.what}`) : fault.what);
      cells[0].classList.toggle("mono", !has(`kind_${fault.what}`));
      setText(cells[1], fault.api ?? t("anyApi"));
      setText(cells[2], fault.times < 0 ? t("untilCleared") : number(fault.times));
    },
  };
});

const latencyRows = new Rows($("latency-list"), () => {
  const element = h("li", { class: "chip" });
  return { elements: [element], update: ({ api, what }) => setText(element, what === undefined ? t("noLatency") : `${api ?? t("anyApi")}: ${what}`) };
});

function showTrouble() {
  faultRows.show(state.faults, (fault) => fault.id);
  const none = state.faults.length === 0;
  setText($("count-trouble"), none ? "" : number(state.faults.length));
  setText($("faults-empty"), t(none ? "noFaults" : "faultsCount"));
  $("faults-clear").disabled = none;
  latencyRows.show(state.latency.length > 0 ? state.latency : [{ api: null }], (entry) => entry.api ?? "");
  setText($("quota-now"), state.quota === null ? t("quotaNowNone") : t("quotaNow", { n: number(state.quota) }));
  follow($("quota"), state.quota ?? "");
  follow($("clock-set"), state.now.replace(/(\.\d+)?Z$/, ""));
  showSwitches();
}

markDirty($("quota"));
markDirty($("clock-set"));

// The fault door takes a code, a status, a kind or only a delay; each needs other fields of the form.
function chosenFault() {
  const value = $("fault-code").value;
  if (value.startsWith("http_")) return { http_status: Number(value.slice("http_".length)) };
  if (value === "delay") return {};
  if (value === "without_field") return { kind: value, field: $("fault-field").value.trim() };
  if (FAULT_KINDS.includes(value)) return { kind: value };
  return { code: value, step: $("fault-step").valueAsNumber };
}

function showFaultFields() {
  const fault = chosenFault();
  $("fault-step-field").hidden = !("code" in fault);
  $("fault-step").disabled = !("code" in fault);
  $("fault-field-field").hidden = !("field" in fault);
}

onSubmit("fault-form", async () => {
  const delay = $("fault-delay").valueAsNumber;
  const request = {
    api: $("fault-api").value || undefined,
    times: $("fault-forever").checked ? -1 : $("fault-times").valueAsNumber,
    delay_ms: delay > 0 ? delay : undefined,
    ...chosenFault(),
  };
  const what = $("fault-code").selectedOptions[0].textContent;
  if ($("fault-code").value === "delay" && !(delay > 0)) {
    say("error", t("failed", { what: t("inject"), why: t("delayMissing") }));
    $("fault-delay").focus();
    return;
  }
  await act(t("inject"), "POST", "faults", request, t("injected", { what }));
});
$("fault-code").addEventListener("change", showFaultFields);
$("fault-forever").addEventListener("change", () => ($("fault-times").disabled = $("fault-forever").checked));
onClick("faults-clear", () => act(t("clearAll"), "DELETE", "faults", undefined, t("cleared")));

for (const button of document.querySelectorAll("[data-advance]")) {
  button.addEventListener("click", busy(button, () => moveClock({ advance_s: Number(button.dataset.advance) })));
}
onClick("clock-real", () => moveClock({ set: new Date().toISOString().replace(/\.\d+Z$/, "Z") }));
onSubmit("clock-advance-form", () => moveClock({ advance_s: Math.round($("clock-amount").valueAsNumber * Number($("clock-unit").value)) }));
onSubmit("clock-set-form", () => {
  const value = $("clock-set").value;
  delete $("clock-set").dataset.dirty;
  return moveClock({ set: `${value.length === "YYYY-MM-DDTHH:MM".length ? `${value}:00` : value}Z` });
});

function moveClock(body) {
  return act(t("clock"), "POST", "clock", body, t("clockMoved"));
}

onSubmit("latency-form", () =>
  act(t("latencyAndQuota"), "POST", "latency", { api: $("latency-api").value || null, kind: "fixed", ms: $("latency-ms").valueAsNumber }, t("latencySet")));
onClick("latency-remove", () =>
  act(t("latencyAndQuota"), "POST", "latency", { api: $("latency-api").value || null, kind: null }, t("latencyRemoved")));
onSubmit("quota-form", () => setQuota($("quota").valueAsNumber));
onClick("quota-none", () => setQuota(null));

function setQuota(perSecond) {
  delete $("quota").dataset.dirty;
  return act(t("quota"), "POST", "quota", { per_second: perSecond }, t("quotaSet"));
}

// One row for each switch, made when the mock first mentions it.
const SWITCHES = ["lenient", "soft_errors", "strict_region", "payload_mode", "skew_s", "max_body", "rotation_min_age_s"];
const switchRows = new Rows($("switches"), ({ name, value }) => {
  const id = `switch-${name}`;
  const hint = h("small", { id: `${id}-hint` });
  const common = { id, "data-testid": id, "aria-describedby": `${id}-hint` };
  const set = async (to) => {
    await act(name, "POST", "switches", { [name]: to }, t("switchSet", { name }));
  };
  const nameLabel = h("label", { for: id, class: "mono" }, name);
  let control;
  let apply;
  let element;
  if (typeof value === "number") {
    control = markDirty(h("input", { type: "number", min: "0", required: "", ...common }));
    apply = h("button", { type: "submit", class: "small", "data-testid": `${id}-apply` });
    element = h("form", { class: "switch" }, h("div", {}, nameLabel, hint), h("span", { class: "control" }, control, apply));
    element.addEventListener("submit", busy(element, async () => {
      delete control.dataset.dirty;
      await set(control.valueAsNumber);
    }));
  } else {
    control = typeof value === "boolean"
      ? h("input", { type: "checkbox", role: "switch", ...common })
      : h("select", { class: "mono", ...common }, ...["gcm", "legacy"].map((mode) => h("option", { value: mode }, mode)));
    control.addEventListener("change", async () => {
      control.dataset.dirty = "1";
      await set(control.type === "checkbox" ? control.checked : control.value);
      delete control.dataset.dirty;
      // If it was refused.
      showSwitchValue(control, name);
    });
    element = h("div", { class: "switch" }, h("div", {}, nameLabel, hint), h("span", { class: "control" }, control));
  }
  return {
    elements: [element],
    control,
    update: () => {
      setText(hint, has(`sw_${name}`) ? t(`sw_${name}`) : "");
      if (apply) setText(apply, t("apply"));
    },
  };
});

function showSwitches() {
  const names = Object.keys(state.switches).sort((a, b) => order(a) - order(b));
  switchRows.show(names.map((name) => ({ name, value: state.switches[name] })), (entry) => entry.name);
  for (const name of names) follow($(`switch-${name}`), state.switches[name]);
}

function showSwitchValue(control, name) {
  if (control.type === "checkbox") control.checked = state.switches[name];
  else control.value = state.switches[name];
}

// Those that the page does not know come last.
function order(name) {
  const at = SWITCHES.indexOf(name);
  return at < 0 ? SWITCHES.length : at;
}

// --------------------------------------------------------------------------------------------------------- Tabs, languages

let tab;

function showTab(wanted) {
  tab = TABS.includes(wanted) ? wanted : TABS[0];
  for (const name of TABS) {
    const button = $(`tab-${name}`);
    button.setAttribute("aria-selected", name === tab);
    button.tabIndex = name === tab ? 0 : -1;
    $(name).hidden = name !== tab;
  }
  if (tab === "calls" && !paused) pollCalls();
}

function openTab(name) {
  history.replaceState(null, "", `#${name}`);
  showTab(name);
}

document.querySelector(".tabs").addEventListener("click", (event) => {
  const button = event.target.closest("[role=tab]");
  if (button) openTab(button.getAttribute("aria-controls"));
});
document.querySelector(".tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const at = { Home: 0, End: TABS.length - 1 }[event.key] ?? (step && (TABS.indexOf(tab) + step + TABS.length) % TABS.length);
  if (at === undefined) return;
  event.preventDefault();
  openTab(TABS[at]);
  $(`tab-${tab}`).focus();
});
addEventListener("hashchange", () => TABS.includes(location.hash.slice(1)) && showTab(location.hash.slice(1)));

function showLanguage() {
  translate(document);
  for (const button of document.querySelectorAll("[data-lang]")) {
    button.setAttribute("aria-pressed", button.dataset.lang === currentLanguage());
  }
  connected(connection);
  showPause();
  if (state) showState();
  for (const { call, row } of calls.values()) {
    label(row);
    fillCallRow(row, call);
  }
  showCounts(lastCounts);
  filterCalls();
}

for (const button of document.querySelectorAll("[data-lang]")) {
  button.addEventListener("click", () => {
    chooseLanguage(button.dataset.lang);
    say("none", "");
    showLanguage();
  });
}
$("message-close").addEventListener("click", () => say("none", ""));
$("reload").addEventListener("click", () => location.reload());

// ------------------------------------------------------------------------------------------------------------------- Start

showLanguage();
showTab(location.hash.slice(1));
setInterval(showClock, 1000);
pollEvery(STATE_EVERY_MS, () => true, refresh);
pollEvery(CALLS_EVERY_MS, () => tab === "calls" && !paused, pollCalls);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
