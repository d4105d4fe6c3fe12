// V's decoder, M and the head of a run, as web/export.py put them into the page, in single precision.
// A dream is what envs/dream.py has in Python: z, and M's state; the same noise gives the same dream.

// `value` with its tensors, {at, size}, taken from the page's numbers.
function unpacked(value, numbers) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(part => unpacked(part, numbers));
  if ("at" in value) return numbers.subarray(value.at, value.at + value.size);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpacked(part, numbers)]));
}

// Half precision, as base64, little endian -> Float32Array.
function fromHalves(text) {
  const bytes = atob(text), table = new Float32Array(65536), numbers = new Float32Array(bytes.length / 2);
  for (let half = 0; half < 65536; half++) {
    const exponent = half >> 10 & 31, fraction = half & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    table[half] = half & 32768 ? -size : size;  // none of the page's numbers is infinite
  }
  for (let i = 0; i < numbers.length; i++) {
    numbers[i] = table[bytes.charCodeAt(2 * i) | bytes.charCodeAt(2 * i + 1) << 8];
  }
  return numbers;
}

// Products of matrices are where the time of a picture goes, so they are done four numbers at a time, by a function of
// WebAssembly that is put together here: code in bytes, as its specification has them. It takes two rows of numbers,
// (k), and all rows (m, k) of a matrix, each of a multiple of four numbers, and stores what each of the two times each
// of these is. Addresses are in bytes.
function assembled() {
  const get = i => [0x20, i], set = i => [0x21, i], add = [0x6a];
  const sized = content => [...unsigned(content.length), ...content];
  const named = text => sized(new TextEncoder().encode(text));
  const section = (id, content) => [id, ...sized(content)];
  const [I32, V128, NOTHING] = [0x7f, 0x7b, 0x40], SIMD = 0xfd;
  const load = (address, at) => [...get(address), ...get(at), ...add, SIMD, 0x00, 4, 0];
  // arguments, then variables: i32 up to 10, and v128
  const [FIRST, SECOND, MATRIX, END, TO_FIRST, TO_SECOND, STRIDE, AT] = [0, 1, 2, 3, 4, 5, 6, 7];
  const ROWS = [MATRIX, 8, 9, 10], [X, Y, W] = [11, 12, 13], SUMS = [14, 15, 16, 17, 18, 19, 20, 21];
  const below = (one, other) => [...get(one), ...get(other), 0x49, 0x0d, 0];  // back to the loop's beginning
  const forward = (pointer, by) => [...get(pointer), ...by, ...add, ...set(pointer)];
  const lane = (i, n) => [...get(i), SIMD, 0x1f, n];
  const total = i => [...lane(i, 0), ...[1, 2, 3].flatMap(n => [...lane(i, n), 0x92])];
  const code = [
    0x03, NOTHING,  // for each four rows of the matrix
    ...ROWS.slice(1).flatMap((row, i) => [...get(ROWS[i]), ...get(STRIDE), ...add, ...set(row)]),
    0x41, 0, ...set(AT),
    ...SUMS.flatMap(i => [SIMD, 0x0c, ...Array(16).fill(0), ...set(i)]),
    0x03, NOTHING,  // for each four numbers of the rows
    ...load(FIRST, AT), ...set(X), ...load(SECOND, AT), ...set(Y),
    ...ROWS.flatMap((row, i) => [
      ...load(row, AT), ...set(W),
      ...[[X, SUMS[i]], [Y, SUMS[4 + i]]].flatMap(([x, to]) =>
        [...get(x), ...get(W), SIMD, 0xe6, 0x01, ...get(to), SIMD, 0xe4, 0x01, ...set(to)]),
    ]),
    ...forward(AT, [0x41, 16]), ...below(AT, STRIDE), 0x0b,
    ...SUMS.flatMap((from, i) => [...get(i < 4 ? TO_FIRST : TO_SECOND), ...total(from), 0x38, 2, i % 4 * 4]),
    ...forward(TO_FIRST, [0x41, 16]), ...forward(TO_SECOND, [0x41, 16]),
    ...get(ROWS[3]), ...get(STRIDE), ...add, ...set(MATRIX), ...below(MATRIX, END), 0x0b,
    0x0b,
  ];
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 7, ...Array(7).fill(I32), 0]),
    ...section(2, [1, ...named("page"), ...named("memory"), 2, 0, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...named("times"), 0, 0]),
    ...section(10, [1, ...sized([2, 4, I32, 11, V128, ...code])]),
  ]);
}

// A number as WebAssembly writes lengths (LEB128).
const unsigned = n => n < 128 ? [n] : [n & 127 | 128, ...unsigned(n >> 7)];

const memory = new WebAssembly.Memory({ initial: 1 });
const four = count => count + 3 & ~3;
let times = null, reserved = 0;  // bytes of the memory

function reserve(count) {
  const at = reserved;
  reserved += 4 * four(count);
  const lacking = reserved - memory.buffer.byteLength;
  if (lacking > 0) memory.grow(Math.ceil(lacking / 65536));
  return at;
}

// A function of a (n, k): a times the matrix (m, k) transposed, plus bias (m) where there is one, (n, m).
function product(matrix, m, k, bias, n) {
  times ??= new WebAssembly.Instance(new WebAssembly.Module(assembled()), { page: { memory } }).exports.times;
  const deep = four(k), wide = four(m), tall = n + n % 2, out = new Float32Array(n * m);
  const [kept, given, done] = [wide * deep, tall * deep, tall * wide].map(reserve);
  const rows = new Float32Array(memory.buffer, kept, wide * deep);
  for (let j = 0; j < m; j++) rows.set(matrix.subarray(j * k, (j + 1) * k), j * deep);
  return a => {
    const input = new Float32Array(memory.buffer, given, tall * deep);
    const output = new Float32Array(memory.buffer, done, tall * wide);
    if (deep === k) input.set(a);
    else for (let i = 0; i < n; i++) input.set(a.subarray(i * k, (i + 1) * k), i * deep);
    for (let i = 0; i < tall; i += 2) {
      const [first, to] = [given + 4 * i * deep, done + 4 * i * wide];
      times(first, first + 4 * deep, kept, kept + 4 * wide * deep, to, to + 4 * wide, 4 * deep);
    }
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < m; j++) out[i * m + j] = output[i * wide + j] + (bias ? bias[j] : 0);
    }
    return out;
  };
}

const sigmoid = x => 1 / (1 + Math.exp(-x));
const UNITS = { relu: x => x > 0 ? x : 0, silu: x => x * sigmoid(x), sigmoid, tanh: Math.tanh };

// What layers do to `size` numbers, or to a grid of {side, channels}, whose numbers go by row, column and channel.
// Each is {shape, run}: the shape of what comes out, and a function of a Float32Array that gives another.
const LAYERS = {
  linear({ weight, bias }, shape) {
    return { shape: { size: bias.length }, run: product(weight, bias.length, shape.size, bias, 1) };
  },
  norm({ weight, bias, epsilon }, shape) {
    const out = new Float32Array(shape.size);
    return { shape, run(x) {
      let mean = 0, variance = 0;
      for (const number of x) mean += number / x.length;
      for (const number of x) variance += (number - mean) ** 2 / x.length;
      const scale = 1 / Math.sqrt(variance + epsilon);
      for (let i = 0; i < x.length; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
      return out;
    } };
  },
  grid({ channels, side, channels_first }) {
    const out = new Float32Array(side * side * channels), places = side * side;
    return { shape: { side, channels }, run(x) {
      if (!channels_first) return x;
      for (let c = 0; c < channels; c++) {
        for (let place = 0; place < places; place++) out[place * channels + c] = x[c * places + place];
      }
      return out;
    } };
  },
  // weight (outputs, inputs, size, size): a product with what each place has around it
  conv({ weight, bias, size, stride, padding }, { side, channels }) {
    const outputs = bias.length, after = Math.floor((side + 2 * padding - size) / stride) + 1, area = size * size;
    const width = area * channels, places = after * after, kernel = new Float32Array(weight.length);
    const around = new Float32Array(places * width);
    for (let i = 0; i < weight.length; i++) {
      const place = i % area, c = Math.floor(i / area) % channels, o = Math.floor(i / width);
      kernel[o * width + place * channels + c] = weight[i];
    }
    const multiplied = product(kernel, outputs, width, bias, places);
    return { shape: { side: after, channels: outputs }, run(x) {
      around.fill(0);
      eachPlace(after, size, stride, padding, side, (at, inside) => {
        for (let c = 0; c < channels; c++) around[at * channels + c] = x[inside * channels + c];
      });
      return multiplied(around);
    } };
  },
  // weight (inputs, outputs, size, size): what each place adds to the places around it
  deconv({ weight, bias, size, stride, padding }, { side, channels }) {
    const outputs = bias.length, after = (side - 1) * stride - 2 * padding + size, area = size * size;
    const width = area * outputs, places = side * side, kernel = new Float32Array(weight.length);
    const out = new Float32Array(after * after * outputs);
    for (let i = 0; i < weight.length; i++) {
      const place = i % area, o = Math.floor(i / area) % outputs, c = Math.floor(i / width);
      kernel[(place * outputs + o) * channels + c] = weight[i];
    }
    const multiplied = product(kernel, width, channels, null, places);
    return { shape: { side: after, channels: outputs }, run(x) {
      const added = multiplied(x);
      for (let i = 0; i < out.length; i += outputs) out.set(bias, i);
      eachPlace(side, size, stride, padding, after, (at, inside) => {
        for (let o = 0; o < outputs; o++) out[inside * outputs + o] += added[at * outputs + o];
      });
      return out;
    } };
  },
};

// For each place of a grid of `side` and each of the size x size places around it on another grid, of side `other`:
// which of all these it is, and where on the other grid, where it is not beyond its edges.
function eachPlace(side, size, stride, padding, other, does) {
  for (let row = 0, at = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      for (let i = 0; i < size; i++) {
        const y = row * stride + i - padding;
        for (let j = 0; j < size; j++, at++) {
          const x = column * stride + j - padding;
          if (y >= 0 && y < other && x >= 0 && x < other) does(at, y * other + x);
        }
      }
    }
  }
}

function layer(plain, shape) {
  if (plain.kind in LAYERS) return LAYERS[plain.kind](plain, shape);
  const unit = UNITS[plain.kind];
  return { shape, run(x) { for (let i = 0; i < x.length; i++) x[i] = unit(x[i]); return x; } };
}

// Layers one after another. What comes out is theirs, until they run again.
function sequence(plains, shape) {
  const all = [];
  for (const plain of plains) { all.push(layer(plain, shape)); shape = all.at(-1).shape; }
  return { shape, run: x => all.reduce((value, one) => one.run(value), x) };
}

function joined(first, second) {
  const all = new Float32Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}
const highest = values => values.reduce((best, value, i) => value > values[best] ? i : best, 0);

// M: LSTMs that remember, whose h say what comes next. A state is {h, c, z}: of all members, and the last z they saw.
class Memory {
  constructor(plain) {
    Object.assign(this, plain);
    this.members = plain.members.map(({ hidden, input, recurrent, head }) => ({
      hidden,
      input: layer(input, { size: input.weight.length / (4 * hidden) }),
      recurrent: layer(recurrent, { size: hidden }),
      head: layer(head, { size: hidden }),
    }));
    if (plain.outcome) this.outcome = layer(plain.outcome, { size: this.members[0].hidden });  // beside letters
  }

  observe(z, action, { h, c }) {
    const seen = joined(z, action), after = { h: new Float32Array(h.length), c: new Float32Array(h.length), z };
    let first = 0;
    for (const { hidden, input, recurrent } of this.members) {
      const own = input.run(seen), past = recurrent.run(h.subarray(first, first + hidden));
      for (let i = 0; i < hidden; i++) {
        const gate = n => own[n * hidden + i] + past[n * hidden + i];  // input, forget, cell, output
        const cell = after.c[first + i] = sigmoid(gate(1)) * c[first + i] + sigmoid(gate(0)) * Math.tanh(gate(2));
        after.h[first + i] = sigmoid(gate(3)) * Math.tanh(cell);
      }
      first += hidden;
    }
    return after;
  }

  // As many uniform and standard normal numbers as a step takes.
  noise() {
    const [uniforms, normals] = this.draws;
    // Box & Muller 1958
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    return { uniform: new Float32Array(uniforms).map(Math.random), normal: new Float32Array(normals).map(normal) };
  }

  // What comes after a state: {z, reward, ending, ended}; at temperature 0 the likeliest.
  sample(state, temperature, noise) {
    let first = 0;
    const said = this.members.map(({ hidden, head }) => head.run(state.h.subarray(first, first += hidden)));
    const { z, reward, ending } = this.kind === "mixture" ? this.mixed(said, temperature, noise)
      : this.lettered(said[0], state, temperature, noise);
    const limit = temperature ? noise.uniform.at(-1) : 0.5;
    return { z, reward: this.rewarded ? reward * this.reward_scale : null, ending, ended: ending > limit };
  }

  // Of a mixture, models/mdrnn.py: a component by the Gumbel trick, and a number of it for each latent.
  mixed(said, temperature, noise) {
    const { mixtures, latent } = this, scores = [], each = mixtures * latent;
    let reward = 0, ending = 0;
    for (const out of said) {
      const logits = out.subarray(2 * each, 2 * each + mixtures), most = Math.max(...logits);
      const whole = most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
      for (const logit of logits) {
        const gumbel = -Math.log(-Math.log(Math.max(noise.uniform[scores.length], 1e-10)));
        scores.push(temperature ? (logit - whole) / temperature + gumbel : logit - whole);
      }
      reward += out[2 * each + mixtures] / said.length;
      ending += sigmoid(out[2 * each + mixtures + 1]) / said.length;
    }
    const chosen = highest(scores), out = said[Math.floor(chosen / mixtures)], at = chosen % mixtures * latent;
    const z = new Float32Array(latent);
    for (let i = 0; i < latent; i++) {
      const sigma = temperature && Math.sqrt(temperature) * Math.exp(Math.min(Math.max(out[each + at + i], -7), 3));
      z[i] = out[at + i] + (temperature ? sigma * noise.normal[i] : 0);
    }
    return { z, reward, ending };
  }

  // Of tokens, models/token_memory.py: the letters of every place by inverting their distribution.
  lettered(out, state, temperature, noise) {
    const { letters, numbers, alphabet, stay, latent } = this, most = Math.max(...letters);
    const z = new Float32Array(latent);
    for (let at = 0; at * numbers < latent; at++) {
      const n = at % letters.length, now = state.z.subarray(at * numbers, (at + 1) * numbers);
      const written = letter => alphabet.subarray((n * most + letter) * numbers, (n * most + letter + 1) * numbers);
      const logits = Array.from(out.subarray(at * most, at * most + letters[n]));
      const nearness = logits.map((_, letter) => -written(letter).reduce((sum, x, i) => sum + (x - now[i]) ** 2, 0));
      logits[highest(nearness)] += stay[at];  // most places are as they were
      const tempered = logits.map(logit => logit / (temperature || 1));
      z.set(written(temperature ? drawn(tempered, noise.uniform[at]) : highest(logits)), at * numbers);
    }
    const [reward, terminal] = this.outcome.run(state.h);
    return { z, reward, ending: sigmoid(terminal) };
  }
}

// The choice that a uniform number falls on.
function drawn(logits, uniform) {
  const most = Math.max(...logits), reached = [];
  for (const logit of logits) reached.push((reached.at(-1) ?? 0) + Math.exp(logit - most));
  const whole = reached.at(-1), found = reached.findIndex(sum => sum > uniform * whole);
  return found < 0 ? reached.indexOf(whole) : found;
}

// What actions are, utils/spaces.py: numbers between bounds, Float32Array, or one of n choices.
class Space {
  constructor(plain) {
    Object.assign(this, { n: 0, low: [], high: [] }, plain);
    this.size = this.n || this.low.length;
    this.scale ??= this.low.map(() => 1);
    this.center ??= this.low.map(() => 0);
  }

  get nothing() { return this.n ? 0 : this.clip(new Float32Array(this.size)); }
  clip(numbers) { return Float32Array.from(numbers, (x, i) => Math.min(Math.max(x, this.low[i]), this.high[i])); }

  vector(action) {
    if (this.n) return Float32Array.from({ length: this.n }, (_, i) => Number(i === action));
    return Float32Array.from(action, (x, i) => (x - this.center[i]) / this.scale[i]);
  }

  action(outputs) {
    if (this.n) return highest(outputs);
    return this.clip(outputs.map((x, i) => x * this.scale[i] + this.center[i]));
  }

  // [name, value] of each number, or of the choice.
  words(action) {
    if (this.n) return [["", (this.names[action] || `action ${action}`).toLowerCase()]];
    const number = x => `${x <= -0.005 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;
    return Array.from(action, (x, i) => [this.names[i] || `number ${i + 1}`, number(x)]);
  }
}

// What keys do, utils/keys.py: `held` is a set of their names. null where none of them counts.
class Keys {
  constructor(plain, space) { Object.assign(this, plain); this.space = space; }

  action(held, previous) {
    if (this.choices) { const found = this.choices.find(([key]) => held.has(key)); return found ? found[1] : null; }
    return Object.keys(this.listed).some(key => held.has(key)) ? this.pushed(held, previous) : null;
  }

  letGo(previous) {
    if (!this.choices) return this.pushed(new Set(), previous);
    return this.rest === null ? previous ?? 0 : this.rest;
  }

  pushed(held, previous) {
    const { low, high, size } = this.space, wanted = new Float32Array(size), before = previous ?? this.space.nothing;
    for (let i = 0; i < size; i++) {
      const shares = Object.keys(this.pushes).filter(key => held.has(key)).map(key => this.pushes[key])
        .filter(([number]) => number === i).map(([, share]) => share);
      if (shares.length && Math.min(...shares) > 0) wanted[i] = Math.max(...shares) * high[i];
      else if (shares.length && Math.max(...shares) < 0) wanted[i] = -Math.min(...shares) * low[i];
      wanted[i] = Math.min(Math.max(wanted[i], low[i]), high[i]);
      const pace = this.pace[i] * (Math.abs(wanted[i]) < Math.abs(before[i]) ? 2 : 1);
      if (this.slow.includes(i)) wanted[i] = Math.min(Math.max(wanted[i], before[i] - pace), before[i] + pace);
    }
    return wanted;
  }
}

class Dream {
  constructor(told) {
    this.told = told;
    this.space = new Space(told.space);
    this.keys = new Keys(told.keys, this.space);
    this.memory = new Memory(told.memory);
    this.decoder = sequence(told.decoder, { size: told.memory.latent });
    this.side = this.decoder.shape.side;
    this.starts = told.starts.z.length / told.memory.latent;
    this.hidden = told.starts.h.length / this.starts;
    const seen = told.memory.latent + (told.agent?.features === "zh" ? this.hidden : 0);
    this.head = told.agent && sequence(told.agent.layers, { size: seen });
    this.picture = new Uint8ClampedArray(this.side * this.side * 4).fill(255);
    this.reset(0);
  }

  // Begin from a recorded moment, by its number.
  reset(start) {
    const { z, h, c } = this.told.starts, part = (all, size) => all.slice(start * size, (start + 1) * size);
    this.start = start;
    this.z = part(z, this.memory.latent);
    this.state = { h: part(h, this.hidden), c: part(c, this.hidden), z: this.z };
    Object.assign(this, { steps: 0, total: 0, reward: null, ending: null, over: false });
  }

  // A step: `action` is numbers, or a choice. `noise` as Memory.noise has it.
  step(action, temperature = 0, noise = this.memory.noise()) {
    this.state = this.memory.observe(this.z, this.space.vector(action), this.state);
    const next = this.memory.sample(this.state, temperature, noise);
    Object.assign(this, { z: next.z, reward: next.reward, ending: next.ending });
    this.steps += 1;
    this.total += next.reward ?? 0;
    this.over = next.ended || this.steps >= this.told.steps;
    return next;
  }

  // What the agent would do now.
  agent() {
    const { features, controls } = this.told.agent;
    const outputs = this.head.run(features === "zh" ? joined(this.z, this.state.h) : this.z);
    return this.space.action(controls ? controlled(outputs.map(Math.tanh), controls) : outputs);
  }

  // What z looks like: RGBA, side by side pixels. Of frames that are no colours the last channel is shown, in grey.
  frame() {
    const colours = this.decoder.run(this.z), { channels } = this.decoder.shape;
    const shown = channels === 3 ? [0, 1, 2] : Array(3).fill(channels - 1);
    for (let place = 0; place < this.side ** 2; place++) {
      for (let i = 0; i < 3; i++) this.picture[4 * place + i] = 255 * colours[channels * place + shown[i]];
    }
    return this.picture;
  }
}

// Of an actor, models/actor.py: each control moves a number from one end of its range to the other, or two of them that
// nobody wants at once.
function controlled(controls, { control, shared, direction, begins, reaches }) {
  return begins.map((begin, i) => {
    const own = controls[control[i]];
    return begin + (shared[i] ? Math.max(own * direction[i], 0) : own) * reaches[i];
  });
}
