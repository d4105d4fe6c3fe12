
// The page: keys, buttons and the pace of a dream.
const $ = id => document.getElementById(id);
const ARROWS = { left: "←", right: "→", up: "↑", down: "↓", space: "space" };
const BEHIND = 8;  // steps between two pictures at most: a machine that is slower dreams slower
const PAUSE = 1500;  // milliseconds that the end of a dream stays
addEventListener("error", event => { $("over").textContent = `this browser cannot dream (${event.message})`; });
const told = unpacked(JSON.parse($("told").textContent), fromHalves($("numbers").textContent));
$("numbers").remove();
const dream = window.dream = new Dream(told);
// for those who look at the page from outside
const page = window.page = {
  paused: false, agent: Boolean(told.agent), temperature: 1, action: null,
  pictures: 0, steps: 0, pace: null, rate: null,
};
const keyboard = new Set(), touched = new Set(), canvas = $("picture"), context = canvas.getContext("2d");
let owed = 0, before = null, ended = null, since = { time: 0, steps: 0, pictures: 0 };
canvas.width = canvas.height = dream.side;

const held = () => new Set([...keyboard, ...touched]);
const nameOf = key => key.startsWith("Arrow") ? key.slice(5).toLowerCase() : key === " " ? "space" : key.toLowerCase();

function mark() {
  const down = held();
  for (const one of document.querySelectorAll("[data-key]")) one.classList.toggle("down", down.has(one.dataset.key));
}
function press(keys, name) {
  keys.add(name);
  if (page.agent) letAgent(false);  // who presses a key drives from then on
  mark();
}
function letGo() { keyboard.clear(); touched.clear(); mark(); }

function letAgent(drives) {
  page.agent = drives && Boolean(told.agent);
  $("agent").setAttribute("aria-pressed", page.agent);
  $("who").textContent = page.agent ? "the agent drives" : "you drive";
  $("ring").className = page.agent ? "" : "yours";
}
function pause(paused) {
  page.paused = paused;
  $("pause").textContent = paused ? "resume" : "pause";
  before = null;
  overlay();
}
function restart(start = (dream.start + 1) % dream.starts) {
  dream.reset(start);
  page.action = ended = null;
  owed = 0;
  draw();
}
function overlay() {
  $("over").textContent = dream.over ? "the dream has ended" : page.paused ? "paused" : "";
}

const ORDERS = { p: () => pause(!page.paused), r: () => restart(), g: () => letAgent(!page.agent) };
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const name = nameOf(event.key);
  if (event.target.type === "range" && name in ARROWS) return;  // the slider's own
  if (dream.keys.action(new Set([name]), page.action) !== null) {
    event.preventDefault();
    if (!event.repeat) press(keyboard, name);
  } else if (name in ORDERS && !event.repeat) {
    event.preventDefault();
    ORDERS[name]();
  }
});
addEventListener("keyup", event => { if (keyboard.delete(nameOf(event.key))) mark(); });
for (const gone of ["blur", "pagehide"]) addEventListener(gone, letGo);
document.addEventListener("visibilitychange", () => { if (document.hidden) letGo(); before = null; });

$("pause").onclick = ORDERS.p;
$("restart").onclick = ORDERS.r;
$("agent").onclick = ORDERS.g;
$("temperature").oninput = event => {
  page.temperature = Number(event.target.value);
  $("degrees").textContent = page.temperature.toFixed(2);
};
// arrows and space are keys of the dream, not of what was clicked last
$("temperature").onpointerup = event => event.target.blur();
for (const id of ["pause", "restart", "agent"]) $(id).addEventListener("click", () => $(id).blur());

function listKeys() {
  for (const [key, meaning] of Object.entries(told.keys.listed)) {
    const [one, words, button] = ["kbd", "span", "button"].map(tag => document.createElement(tag));
    one.textContent = ARROWS[key] || key;
    one.dataset.key = button.dataset.key = key;
    words.textContent = meaning;
    $("keys").append(one, words);
    button.textContent = meaning;
    button.onpointerdown = event => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      press(touched, key);
    };
    for (const gone of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(gone, () => { touched.delete(key); mark(); });
    }
    button.oncontextmenu = event => event.preventDefault();
    $("pad").append(button);
  }
}

const fixed = (value, digits) => value === null ? "-" : value.toFixed(digits).replace("-", "−");

function showAction() {
  const parts = dream.space.words(page.action ?? dream.space.nothing);
  $("action").replaceChildren(...parts.flatMap(([name, value]) => ["dt", "dd"].map((tag, i) => {
    const one = document.createElement(tag);
    one.textContent = i ? value : name;
    return one;
  })));
}

function draw() {
  context.putImageData(new ImageData(dream.frame(), dream.side, dream.side), 0, 0);
  page.pictures += 1;
  $("start").textContent = `moment ${dream.start + 1} of ${dream.starts}`;
  $("step").textContent = dream.steps;
  $("reward").textContent = fixed(dream.reward, 2);
  $("return").textContent = fixed(told.memory.rewarded ? dream.total : null, 1);
  $("ending").textContent = dream.ending === null ? "-" : `${fixed(100 * dream.ending, 1)} %`;
  showAction();
  overlay();
}

function act() {
  if (page.agent) return dream.agent();
  return dream.keys.action(held(), page.action) ?? dream.keys.letGo(page.action);
}

// As many steps as real time has brought, and then one picture.
function go(now) {
  requestAnimationFrame(go);
  const passed = before === null ? 0 : (now - before) / 1000;
  before = now;
  if (page.paused) return;
  if (dream.over) { if (now > (ended ??= now) + PAUSE) restart(); return; }
  owed = Math.min(owed + passed / told.dt, BEHIND);
  const due = Math.floor(owed);
  for (let i = 0; i < due && !dream.over; i++) {
    page.action = act();
    dream.step(page.action, page.temperature);
    page.steps += 1;
  }
  owed -= due;
  if (due) draw();
}

setInterval(() => {
  const { time, steps, pictures } = since;
  since = { time: performance.now(), steps: page.steps, pictures: page.pictures };
  const running = !page.paused && !dream.over && !document.hidden, seconds = (since.time - time) / 1000;
  page.pace = running ? (since.steps - steps) * told.dt / seconds : null;
  page.rate = running ? (since.pictures - pictures) / seconds : null;
  $("pace").textContent = running ? `${fixed(100 * page.pace, 0)} %` : "-";
  $("pictures").textContent = fixed(page.rate, 0);
}, 1000);

document.title = `dreamdrive: a dream of ${told.world}`;
$("name").textContent = `a dream of ${told.world}`;
$("agent").hidden = !told.agent;
$("help").textContent = `P pauses, R begins another dream${told.agent ? ", G lets the agent drive" : ""}.`;
if (told.agent) $("rule").textContent = "keys (who presses one drives)";
$("about").textContent = `No simulator is behind this: M (${told.kinds.M}) of the run ${told.run} says what comes `
  + `next, and V (${told.kinds.V}) draws it. All of it runs in this page.`;
listKeys();
letAgent(page.agent);
draw();
requestAnimationFrame(go);
