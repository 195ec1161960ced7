// A canvas while it resolves, and its replay.

const SPEEDS = [0.25, 0.5, 1, 2, 4];

// Draws frame `index` of `frames` into `element`: what was committed before it, then its positions.
export function draw(element, frames, index) {
  const frame = frames[index];
  const ended = new Map();
  for (const one of frames.slice(0, index)) if (one.canvas < frame.canvas) ended.set(one.canvas, one);
  const before = [...ended.values()].map((one) => one.text.slice(0, one.end).join("")).join("");
  let last = frame.end;
  frame.text.forEach((text, i) => { if (i >= frame.end && frame.state[i] !== "settled") last = i + 1; });
  const spans = frame.text.slice(0, Math.min(frame.text.length, Math.max(last, frame.end + 8))).flatMap((text, i) => {
    const span = document.createElement("span");
    span.className = i >= frame.end ? `${frame.state[i]} beyond` : frame.state[i];
    const space = text.length - text.trimStart().length; // stands between the boxes, where lines may break
    span.textContent = text.slice(space) || (i >= frame.end ? "·" : text || "·");
    span.style.setProperty("--doubt", (0.12 + 0.88 * frame.doubt[i]).toFixed(3));
    return space && span.textContent !== text ? [text.slice(0, space), span] : [span];
  });
  element.replaceChildren(document.createTextNode(before), ...spans);
}

export function saysFrame(frame) {
  const settled = frame.state.filter((one) => one === "settled").length;
  return `Canvas ${frame.canvas + 1}, step ${frame.step} of at most ${frame.steps} · ${settled} of ${frame.ids.length} positions settled`;
}

// Controls that show frames again: play, a scrubber and a speed. `show(index)` draws one.
export function replay(frames, show) {
  const box = document.createElement("div");
  box.className = "replay";
  const play = document.createElement("button");
  const slider = document.createElement("input");
  const count = document.createElement("small");
  const speed = document.createElement("select");
  play.type = "button";
  slider.type = "range";
  slider.min = 1;
  slider.max = frames.length;
  slider.value = frames.length;
  slider.setAttribute("aria-label", "Step");
  speed.setAttribute("aria-label", "Speed of the replay");
  for (const value of SPEEDS) speed.add(new Option(`${value}×`, value, value === 1, value === 1));
  let timer = null;
  const at = () => Number(slider.value) - 1;
  const says = () => {
    count.textContent = `${slider.value} / ${frames.length}`;
    slider.setAttribute("aria-valuetext", saysFrame(frames[at()]));
    play.textContent = timer === null ? "▶" : "❚❚";
    play.setAttribute("aria-label", timer === null ? "Replay" : "Pause the replay");
  };
  const pause = () => { clearTimeout(timer); timer = null; says(); };
  const go = (index) => { slider.value = index + 1; show(index); says(); };
  const next = () => {
    if (at() >= frames.length - 1) { pause(); return; }
    const wait = Math.min(2000, Math.max(40, frames[at() + 1].at - frames[at()].at)) / Number(speed.value);
    timer = setTimeout(() => { go(at() + 1); next(); }, wait);
    says();
  };
  play.addEventListener("click", () => {
    if (timer !== null) { pause(); return; }
    if (at() >= frames.length - 1) go(0);
    next();
  });
  slider.addEventListener("input", () => { pause(); go(at()); });
  box.append(play, slider, count, speed);
  says();
  return box;
}
