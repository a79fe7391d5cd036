// Every text of the console, English and Chinese, and the one place that knows which of the two is shown. The Chinese words are those
// of the provider's documentation (密钥, 轮转, 应用接入点). What the service itself says (codes, messages, names of fields) is not translated.

const TEXTS = {
  // Frame
  title: ["KMS mock", "KMS 模拟服务"],
  skip: ["Skip to content", "跳到内容"],
  language: ["Language", "语言"],
  sections: ["Sections", "栏目"],
  mockClock: ["Mock clock", "模拟时钟"],
  startedAt: ["Running since {at} UTC", "自 {at} UTC 起运行"],
  connecting: ["Connecting", "正在连接"],
  connected: ["Connected", "已连接"],
  lost: ["No answer", "无应答"],
  stale: ["The mock was restarted", "模拟服务已重启"],
  reload: ["Reload", "重新加载"],
  dismiss: ["Dismiss", "关闭"],
  back: ["Back", "返回"],
  none: ["none", "无"],
  copy: ["Copy {what}", "复制 {what}"],
  copied: ["Copied {what}", "已复制 {what}"],
  notCopied: ["The browser does not let this page copy", "浏览器不允许此页面复制"],
  failed: ["{what}: {why}", "{what}：{why}"],
  unreachable: ["the mock does not answer", "模拟服务无应答"],

  // Keys
  keys: ["Keys", "密钥"],
  key: ["Key", "密钥"],
  state: ["State", "状态"],
  type: ["Type", "类型"],
  versions: ["Versions", "版本"],
  uses: ["Uses", "使用次数"],
  actions: ["Actions", "操作"],
  filterKeys: ["Filter keys", "筛选密钥"],
  filterKeysHint: ["Filter by id, alias, description, state, spec", "按 ID、别名、描述、状态、规格筛选"],
  shownOf: ["{shown} of {all}", "{shown} / {all}"],
  noKeys: ["No key matches.", "没有匹配的密钥。"],
  details: ["Details of {id}", "{id} 的详情"],
  stateEnabled: ["Enabled", "已启用"],
  stateDisabled: ["Disabled", "已禁用"],
  statePendingDeletion: ["Pending deletion", "待删除"],
  statePendingImport: ["Pending import", "待导入"],
  until: ["on {at}", "{at} 删除"],
  defaultKey: ["default key", "默认密钥"],
  defaultKeyHint: ["A product's default key cannot be disabled, rotated or deleted", "云产品的默认密钥不能禁用、轮转或删除"],
  protected: ["protected", "删除保护"],
  protectedHint: ["Deletion protection is on", "已开启删除保护"],
  externalHint: ["Imported key material cannot be rotated", "导入的密钥材料不能轮转"],
  notInThisState: ["Not possible in this state", "当前状态下不可用"],
  oneVersion: ["1 version", "1 个版本"],
  nVersions: ["{n} versions", "{n} 个版本"],
  rotatesEvery: ["every {days} days", "每 {days} 天轮转"],
  nextOn: ["next {at}", "下次 {at}"],
  rotationSuspended: ["rotation suspended", "轮转已暂停"],
  enable: ["Enable", "启用"],
  disable: ["Disable", "禁用"],
  rotate: ["Rotate", "轮转"],
  remove_key: ["Delete…", "计划删除…"],
  cancelDeletion: ["Cancel deletion…", "取消删除…"],
  didEnable: ["{id} is enabled", "{id} 已启用"],
  didDisable: ["{id} is disabled", "{id} 已禁用"],
  didRotate: ["{id} has a new primary version", "{id} 已有新的主版本"],
  didSchedule: ["{id} will be deleted", "{id} 已计划删除"],
  didCancel: ["{id} will not be deleted", "{id} 已取消删除"],
  confirmSchedule: ["Schedule deletion", "计划删除密钥"],
  confirmScheduleText: [
    "At once nothing can be encrypted or decrypted with this key. At the end of the window, by the mock clock, it is gone for good.",
    "此密钥将立即无法加解密。等待期结束后（以模拟时钟为准），密钥将被永久删除。",
  ],
  confirmCancel: ["Cancel deletion", "取消计划删除"],
  confirmCancelText: ["The key returns to the state it had before.", "密钥将恢复到之前的状态。"],
  windowDays: ["Window in days (7 to 30)", "等待期（7 至 30 天）"],
  created: ["Created (UTC)", "创建时间 (UTC)"],
  deletion: ["Deletion (UTC)", "删除时间 (UTC)"],
  usage: ["Usage", "用途"],
  origin: ["Origin", "来源"],
  protectionLevel: ["Protection", "保护级别"],
  automaticRotation: ["Automatic rotation", "自动轮转"],
  nextRotation: ["Next rotation (UTC)", "下次轮转 (UTC)"],
  deletionProtection: ["Deletion protection", "删除保护"],
  description: ["Description", "描述"],
  aliases: ["Aliases", "别名"],
  version: ["Version", "版本"],
  primary: ["primary", "主版本"],

  // Calls
  calls: ["Calls", "调用"],
  api: ["API", "接口"],
  anyApi: ["every API", "所有接口"],
  failuresOnly: ["Failures only", "仅失败"],
  pause: ["Pause", "暂停"],
  resume: ["Resume", "继续"],
  callCounts: ["Calls by API", "各接口调用次数"],
  no: ["No.", "序号"],
  timeUtc: ["Time (UTC)", "时间 (UTC)"],
  result: ["Result", "结果"],
  messageText: ["Message", "消息"],
  accessKey: ["Access key", "访问密钥"],
  ms: ["ms", "毫秒"],
  unanswered: ["no answer", "未应答"],
  callsShown: ["{shown} shown", "显示 {shown} 条"],
  callsShownMissed: ["{shown} shown, {missed} skipped", "显示 {shown} 条，跳过 {missed} 条"],
  noCalls: ["No calls yet.", "暂无调用。"],

  // Certificates and access points
  certificates: ["Certificates", "证书"],
  certificate: ["Certificate", "证书"],
  kind: ["Kind", "类别"],
  subjectIssuer: ["Subject, issuer", "主题、颁发者"],
  validUtc: ["Valid (UTC)", "有效期 (UTC)"],
  keySpec: ["Key spec", "密钥规格"],
  noCertificates: ["No certificates.", "暂无证书。"],
  issuedBy: ["issued by {issuer}", "颁发者 {issuer}"],
  validFrom: ["from {at}", "自 {at}"],
  validTo: ["to {at}", "至 {at}"],
  expired: ["expired", "已过期"],
  notYetValid: ["not yet valid", "尚未生效"],
  certPENDING: ["Pending", "待上传"],
  certACTIVE: ["Active", "启用"],
  certINACTIVE: ["Inactive", "停用"],
  certREVOKED: ["Revoked", "已吊销"],
  accessPoints: ["Access points", "应用接入点"],
  accessPoint: ["Access point", "应用接入点"],
  permissionCheck: ["Permission check", "权限控制"],
  on: ["on", "开启"],
  off: ["off", "关闭"],
  accessKeys: ["Access keys", "访问密钥"],
  restrictedApis: ["Restricted APIs", "受限接口"],
  resources: ["Resources", "资源权限"],
  endpoints: ["Endpoints", "终端节点"],
  noAccessPoints: ["No access points.", "暂无应用接入点。"],

  // Trouble
  trouble: ["Trouble", "故障"],
  faults: ["Faults", "故障注入"],
  faultsHint: ["The next calls of an API suffer this instead of, or on top of, their ordinary answer.", "接口的后续调用将遇到此故障，代替或叠加于正常应答。"],
  fault: ["Fault", "故障"],
  step: ["At step", "检查步骤"],
  fieldName: ["Field", "字段"],
  delayMs: ["After a delay, ms", "先延迟（毫秒）"],
  times: ["Times", "次数"],
  untilCleared: ["until cleared", "直到清除"],
  inject: ["Inject", "注入"],
  activeFaults: ["Active faults", "生效中的故障"],
  timesLeft: ["Times left", "剩余次数"],
  noFaults: ["No fault is active.", "没有生效中的故障。"],
  clearAll: ["Clear all", "全部清除"],
  faultsCount: ["Clearing also closes the connections that hang.", "清除时也会关闭挂起的连接。"],
  injected: ["Injected: {what}", "已注入：{what}"],
  cleared: ["All faults are cleared", "故障已全部清除"],
  groupCodes: ["Error codes", "错误码"],
  groupKinds: ["Connection and answer", "连接与应答"],
  groupStatus: ["HTTP status without an envelope", "仅 HTTP 状态码"],
  kind_delay: ["delay only", "仅延迟"],
  kind_hang: ["hang: never answer", "挂起：永不应答"],
  kind_drop: ["drop before the work", "处理前断开"],
  kind_reset: ["reset (RST) before the work", "处理前重置连接 (RST)"],
  kind_drop_after: ["drop after the work", "处理后断开"],
  kind_truncate_body: ["half a body", "应答截断一半"],
  kind_oversized_body: ["body of 8 MiB", "8 MiB 应答"],
  kind_empty_body: ["no body", "空应答"],
  kind_not_json: ["HTML instead of JSON", "返回 HTML 而非 JSON"],
  kind_content_type: ["the right body as text/html", "正确应答，但类型为 text/html"],
  kind_gzip: ["announced as gzip, but is not", "声明为 gzip，实际不是"],
  kind_lying_plaintext: ["other plaintext of the same length", "等长的错误明文"],
  kind_short_plaintext: ["half the plaintext", "明文截断一半"],
  kind_lying_blob: ["a ciphertextBlob that does not open", "无法解密的 ciphertextBlob"],
  kind_lying_key_id: ["another cmkUuid", "错误的 cmkUuid"],
  kind_without_field: ["a field is missing", "缺少字段"],
  delayMissing: ["a delay needs a number of milliseconds", "延迟需要填写毫秒数"],

  clock: ["Clock", "时钟"],
  clockHint: ["Rotation, deletion windows and the dates of requests are judged by this clock.", "轮转、删除等待期与请求日期均以此时钟为准。"],
  plusHour: ["+1 hour", "+1 小时"],
  plusDay: ["+1 day", "+1 天"],
  plusWeek: ["+7 days", "+7 天"],
  backToRealTime: ["Back to real time", "恢复真实时间"],
  moveBy: ["Move by", "移动"],
  unit: ["Unit", "单位"],
  seconds: ["seconds", "秒"],
  minutes: ["minutes", "分钟"],
  hours: ["hours", "小时"],
  days: ["days", "天"],
  move: ["Move", "移动"],
  setToUtc: ["Set to (UTC)", "设为 (UTC)"],
  set: ["Set", "设置"],
  remove: ["Remove", "移除"],
  clockMoved: ["The clock was moved", "时钟已移动"],
  skewedHint: [
    "The clock is further off than skew_s allows: requests of a client with the real time are refused. Raise skew_s below to go on.",
    "时钟偏差超出 skew_s：使用真实时间的客户端请求会被拒绝。可在下方调大 skew_s。",
  ],

  latencyAndQuota: ["Latency and quota", "延迟与配额"],
  latencyHint: ["Every call waits this long, until it is removed. More calls a second than the quota get kms.0407.", "每次调用都等待此时长，直到移除。每秒调用超过配额时返回 kms.0407。"],
  msLong: ["Milliseconds", "毫秒"],
  latencySet: ["Latency is set", "延迟已设置"],
  latencyRemoved: ["Latency is removed", "延迟已移除"],
  noLatency: ["no latency", "无延迟"],
  quota: ["Calls per second", "每秒调用数"],
  noLimit: ["No limit", "不限制"],
  quotaNow: ["Now: {n} a second for every access key", "当前：每个访问密钥每秒 {n} 次"],
  quotaNowNone: ["Now: no limit", "当前：不限制"],
  quotaSet: ["The quota is set", "配额已设置"],

  switches: ["Switches", "开关"],
  apply: ["Apply", "应用"],
  switchSet: ["{name} is set", "{name} 已设置"],
  sw_lenient: ["createKey fills in what it would refuse as absent; SM4 keys in software", "createKey 自动补全缺失参数；允许软件 SM4 密钥"],
  sw_soft_errors: ["Errors come with HTTP status 200; only the body tells", "错误以 HTTP 200 返回，仅应答体说明"],
  sw_strict_region: ["listAliases insists on regionId", "listAliases 必须带 regionId"],
  sw_payload_mode: ["How new blobs are encrypted; legacy has no authentication", "新密文的加密方式；legacy 无完整性校验"],
  sw_skew_s: ["Seconds a request's date may be off", "请求日期允许的偏差（秒）"],
  sw_max_body: ["Longest body of a request, in bytes", "请求体最大字节数"],
  sw_rotation_min_age_s: ["Seconds before a key may be rotated by hand again", "再次手动轮转前的最短间隔（秒）"],
};

export const LANGUAGES = { en: "en", zh: "zh-CN" };
const STORED = "kms-mock-console-language";

let language = remembered() ?? (navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en");

export function currentLanguage() {
  return language;
}

// Remembers the choice for the next visit; the caller draws again.
export function chooseLanguage(wanted) {
  language = wanted;
  try {
    localStorage.setItem(STORED, wanted);
  } catch {
    // A browser without storage forgets.
  }
}

function remembered() {
  try {
    const stored = localStorage.getItem(STORED);
    return Object.hasOwn(LANGUAGES, stored) ? stored : undefined;
  } catch {
    return undefined;
  }
}

// The text of this name, with {parameters} filled in.
export function t(name, parameters = {}) {
  const text = TEXTS[name]?.[language === "zh" ? 1 : 0] ?? name;
  return text.replace(/\{(\w+)\}/g, (whole, parameter) => parameters[parameter] ?? whole);
}

export function has(name) {
  return Object.hasOwn(TEXTS, name);
}

export function number(value) {
  return Number(value).toLocaleString(LANGUAGES[language]);
}

// Fills in every data-i18n and data-i18n-attr below `root`, and the language of the page.
export function translate(root) {
  document.documentElement.lang = LANGUAGES[language];
  document.title = t("title");
  for (const element of root.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
  for (const element of root.querySelectorAll("[data-i18n-attr]")) {
    for (const pair of element.dataset.i18nAttr.split(" ")) {
      const [attribute, name] = pair.split(":");
      element.setAttribute(attribute, t(name));
    }
  }
}
