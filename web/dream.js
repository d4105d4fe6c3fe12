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

// out (n, m) = a (n, k) times b (m, k) transposed, plus bias (m) where there is one. Two rows by four columns at a time,
// so that each number that is read is used more than once: this is where the time of a picture goes.
function multiply(a, n, b, m, k, bias, out) {
  for (let i = 0; i < n; i += 2) {
    const row = i * k, next = i + 1 < n ? row + k : row;  // of an odd number of rows the last is worked out twice
    for (let j = 0; j < m; j += 4) {
      if (j + 4 > m) {
        for (let column = j; column < m; column++) {
          let first = 0, second = 0;
          for (let p = 0, q = column * k; p < k; p++, q++) { first += a[row + p] * b[q]; second += a[next + p] * b[q]; }
          const more = bias ? bias[column] : 0;
          out[i * m + column] = first + more;
          if (next > row) out[i * m + m + column] = second + more;
        }
        continue;
      }
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let p = 0, q = j * k; p < k; p++, q++) {
        const x = a[row + p], y = a[next + p], w0 = b[q], w1 = b[q + k], w2 = b[q + 2 * k], w3 = b[q + 3 * k];
        a0 += x * w0; a1 += x * w1; a2 += x * w2; a3 += x * w3;
        b0 += y * w0; b1 += y * w1; b2 += y * w2; b3 += y * w3;
      }
      if (bias) {
        a0 += bias[j]; a1 += bias[j + 1]; a2 += bias[j + 2]; a3 += bias[j + 3];
        b0 += bias[j]; b1 += bias[j + 1]; b2 += bias[j + 2]; b3 += bias[j + 3];
      }
      let o = i * m + j;
      out[o] = a0; out[o + 1] = a1; out[o + 2] = a2; out[o + 3] = a3;
      if (next > row) { o += m; out[o] = b0; out[o + 1] = b1; out[o + 2] = b2; out[o + 3] = b3; }
    }
  }
}

const sigmoid = x => 1 / (1 + Math.exp(-x));
const UNITS = { relu: x => x > 0 ? x : 0, silu: x => x * sigmoid(x), sigmoid, tanh: Math.tanh };

// What layers do to `size` numbers, or to a grid of {side, channels}, whose numbers go by row, column and channel.
// Each is {shape, run}: the shape of what comes out, and a function of a Float32Array that gives another.
const LAYERS = {
  linear({ weight, bias }, shape) {
    const inputs = shape.size, size = bias.length, out = new Float32Array(size);
    return { shape: { size }, run(x) { multiply(x, 1, weight, size, inputs, bias, out); return out; } };
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
    const around = new Float32Array(places * width), out = new Float32Array(places * outputs);
    for (let i = 0; i < weight.length; i++) {
      const place = i % area, c = Math.floor(i / area) % channels, o = Math.floor(i / width);
      kernel[o * width + place * channels + c] = weight[i];
    }
    return { shape: { side: after, channels: outputs }, run(x) {
      around.fill(0);
      eachPlace(after, size, stride, padding, side, (at, inside) => {
        for (let c = 0; c < channels; c++) around[at * channels + c] = x[inside * channels + c];
      });
      multiply(around, places, kernel, outputs, width, bias, out);
      return out;
    } };
  },
  // weight (inputs, outputs, size, size): what each place adds to the places around it
  deconv({ weight, bias, size, stride, padding }, { side, channels }) {
    const outputs = bias.length, after = (side - 1) * stride - 2 * padding + size, area = size * size;
    const width = area * outputs, places = side * side, kernel = new Float32Array(weight.length);
    const added = new Float32Array(places * width), out = new Float32Array(after * after * outputs);
    for (let i = 0; i < weight.length; i++) {
      const place = i % area, o = Math.floor(i / area) % outputs, c = Math.floor(i / width);
      kernel[(place * outputs + o) * channels + c] = weight[i];
    }
    return { shape: { side: after, channels: outputs }, run(x) {
      multiply(x, places, kernel, width, channels, null, added);
      for (let i = 0; i < out.length; i += outputs) out.set(bias, i);
      eachPlace(side, size, stride, padding, after, (at, inside) => {
        for (let o = 0; o < outputs; o++) out[inside * outputs + o] += added[at * outputs + o];
      });
      return out;
    } };
  },
};

// For each place of a grid of `side` and each of the size x size places around it on another grid, of side `other`: which of
// all these it is, and where on the other grid, where it is not beyond its edges.
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
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());  // Box & Muller 1958
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
    const { letters, numbers, alphabet, stay, latent } = this, most = Math.max(...letters), z = new Float32Array(latent);
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
    const number = x => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;
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
