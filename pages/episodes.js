"use strict";
// The episodes of a dataset: a table, and of the chosen one a film and plots. `about` comes from index.js, and what is
// plotted from episodes/<number>.js, which calls `arrived`; scripts, since a page from file:// may not fetch.
const $ = id => document.getElementById(id);
const PAGE = 50, WIDTH = 600, SVG = "http://www.w3.org/2000/svg";
const COLUMNS = ["episode", "driver", "split", "seed", "steps", "return"];
const view = window.view = { sort: 0, down: false, first: 0, chosen: null, drawn: null, loaded: [] };  // for those who look at the page from outside

function element(name, attributes, ...children) {
  const made = document.createElementNS(name in { svg: 1, path: 1, line: 1, text: 1 } ? SVG : "http://www.w3.org/1999/xhtml", name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function rows() {
  const driver = $("driver").value, split = $("split").value, filmed = $("filmed").checked;
  const found = about.episodes.filter(e => (!driver || e[1] === driver) && (!split || e[2] === split) && (!filmed || about.films.includes(e[0])));
  const k = view.sort, sign = view.down ? -1 : 1;
  return found.sort((a, b) => sign * (a[k] < b[k] ? -1 : a[k] > b[k] ? 1 : a[0] - b[0]));
}

function list() {
  const found = rows();
  view.first = Math.max(0, Math.min(view.first, Math.floor((found.length - 1) / PAGE) * PAGE));
  const shown = found.slice(view.first, view.first + PAGE);
  $("rows").replaceChildren(...shown.map(e => {
    const cells = e.map((value, k) => element("td", {}, k === 5 ? value.toFixed(1) : String(value)));
    const film = element("td", {}, about.films.includes(e[0]) ? "film" : "");
    const row = element("tr", { tabindex: 0, "data-episode": e[0] }, ...cells, film);
    row.onclick = () => choose(e[0]);
    row.onkeydown = event => { if (event.key === "Enter") choose(e[0]); };
    row.classList.toggle("chosen", e[0] === view.chosen);
    return row;
  }));
  $("range").textContent = found.length ? `${view.first + 1} to ${view.first + shown.length} of ${found.length}` : "none";
  $("before").disabled = view.first === 0;
  $("after").disabled = view.first + PAGE >= found.length;
}

function choose(number) {
  view.chosen = number;
  list();
  const e = about.episodes[number - about.episodes[0][0]];
  $("title").textContent = `Episode ${number}: ${e[1]}, seed ${e[3]}, ${e[2]}, ${e[4]} steps, return ${e[5].toFixed(1)}`;
  $("plots").replaceChildren(element("p", { class: "soft" }, about.damaged.includes(number) ? "its shard is damaged: there is nothing to plot" : "loading"));
  $("film").replaceChildren();
  if (about.films.includes(number)) {
    const video = element("video", { src: `films/${name(number)}.mp4`, controls: "", loop: "", muted: "", playsinline: "" });
    video.muted = true;
    video.ontimeupdate = () => { for (const mark of document.querySelectorAll(".now")) mark.setAttribute("d", `M${WIDTH * video.currentTime / (video.duration || 1)} 0V1000`); };
    $("film").append(video);
  } else $("film").append(element("p", { class: "soft" }, about.pictures ? "It was not filmed: --films N makes more of them." : "What is seen are numbers: there is nothing to film."));
  if (about.damaged.includes(number)) return;
  const script = element("script", { src: `episodes/${name(number)}.js` });
  script.onload = () => script.remove();
  script.onerror = () => $("plots").replaceChildren(element("p", { class: "problem" }, `episodes/${name(number)}.js is missing: write the page again`));
  document.head.append(script);
}

const name = number => String(number).padStart(5, "0");
const short = value => Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));

function arrived(number, data) {
  view.loaded.push(number);
  if (number !== view.chosen) return;
  const reward = data.every > 1 ? `reward of ${data.every} steps` : "reward of a step", plots = [plot(reward, data.reward)];
  if (about.choices) plots.push(plot("action", data.action[0], about.actions));
  else data.action.forEach((values, k) => plots.push(plot(about.actions[k], values, null, about.bounds[k])));
  (data.obs || []).forEach((values, k) => plots.push(plot(`number ${k + 1} of what is seen`, values)));
  const seconds = (about.dt * data.every * data.reward.length).toFixed(1);
  $("plots").replaceChildren(...plots, element("div", { class: "axis" }, element("span", {}, "0 s"), element("span", {}, `${seconds} s`)));
  view.drawn = number;
}

function plot(title, values, names, bounds) {
  const known = values.filter(value => value !== null), height = names ? Math.max(72, 15 * names.length) : 72;
  let [low, high] = names ? [0, names.length - 1] : bounds || [Math.min(...known), Math.max(...known)];
  if (!(high > low)) [low, high] = [low - 1, high + 1];
  const y = value => height - 4 - (height - 8) * (value - low) / (high - low), step = WIDTH / Math.max(1, values.length);
  const line = values.map((value, t) => value === null ? "" : `${t && values[t - 1] !== null ? "L" : "M"}${(t * step).toFixed(1)} ${y(value).toFixed(1)}${names ? `h${step.toFixed(1)}` : ""}`).join("");
  const zero = low < 0 && high > 0 ? [element("line", { x1: 0, x2: WIDTH, y1: y(0), y2: y(0) })] : [];
  const picture = element("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", style: `height: ${height}px` }, ...zero, element("path", { d: line }), element("path", { d: "", class: "now" }));
  const labels = names ? [...names].reverse() : [short(high), short(low)];
  const side = element("div", { class: "side" }, ...labels.map(text => element("span", {}, text)));
  return element("div", { class: "plot" }, element("h3", {}, title), element("div", { class: "drawn" }, side, picture));
}

for (const [id, k] of [["driver", 1], ["split", 2]])
  for (const value of [...new Set(about.episodes.map(e => e[k]))].sort()) $(id).add(new Option(value, value));
$("head").replaceChildren(...COLUMNS.map((title, k) => {
  const button = element("button", {}, title);
  button.onclick = () => { view.down = view.sort === k && !view.down; view.sort = k; view.first = 0; list(); };
  return element("th", {}, button);
}), element("th", {}, ""));
for (const id of ["driver", "split", "filmed"]) $(id).onchange = () => { view.first = 0; list(); };
$("before").onclick = () => { view.first -= PAGE; list(); };
$("after").onclick = () => { view.first += PAGE; list(); };
if (about.episodes.length) {
  choose(about.films.length ? about.films[0] : about.episodes[0][0]);
  view.first = PAGE * Math.floor((view.chosen - about.episodes[0][0]) / PAGE);
  list();
  $("list").scrollTop = document.querySelector(".chosen").offsetTop - 100;
}
