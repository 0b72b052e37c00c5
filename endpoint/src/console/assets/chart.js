// Small stacked area charts of the last minutes.

import { h, setText, svg } from "./dom.js";

/** The chart widens with what there is to show. */
const WINDOWS = [60_000, 150_000, 300_000];
const HEIGHT = 168;
const EDGE = { top: 14, right: 12, bottom: 24, left: 34 };

/** A round number that is not below `value`, at least 4 so that a single job does not fill the chart. */
function ceiling(value) {
  const wanted = Math.max(4, value);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 4, 5, 8, 10].map((step) => step * power).find((step) => step >= wanted);
}

/**
 * `series` is a list of {key, name, tone}; the first one lies at the bottom. Returns the panel and `draw(points, now)`,
 * where a point has `at` and the keys.
 */
export function chart(title, series) {
  const picture = svg("svg", { class: "chart", role: "img" });
  const figures = series.map(({ name, tone }) => ({ item: h("li", { class: tone }), value: h("b"), name }));
  figures.forEach(({ item, value, name }) => item.append(name, value));
  const legend = h("ul", { class: "legend" }, figures.map(({ item }) => item));
  const panel = h("section", { class: "panel" }, h("header", {}, h("h2", {}, title), legend), picture);
  let points = [];
  let now = 0;
  let pointed = null;

  function paint() {
    const width = picture.clientWidth;
    if (width === 0) return;
    const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    const span = now - (points[0]?.at ?? now);
    const window = WINDOWS.find((length) => length >= span) ?? WINDOWS.at(-1);
    const shown = points.filter(({ at }) => at >= now - window - 2000);
    const total = (point) => series.reduce((sum, { key }) => sum + point[key], 0);
    const top = ceiling(Math.max(0, ...shown.map(total)));
    const x = (at) => EDGE.left + Math.max(0, 1 - (now - at) / window) * inner.width;
    const y = (value) => EDGE.top + (1 - value / top) * inner.height;
    const parts = [];
    for (const value of [0, top / 2, top]) {
      parts.push(svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }));
      parts.push(svg("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
    }
    for (const [share, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
      const back = share * window;
      const label = back === 0 ? "now" : `−${Math.floor(back / 60_000)}:${String((back / 1000) % 60).padStart(2, "0")}`;
      parts.push(svg("text", { x: x(now - back), y: HEIGHT - 7, "text-anchor": anchor }, label));
    }
    const base = shown.map(() => 0);
    for (const { key, tone } of series) {
      const lower = [...base];
      shown.forEach((point, index) => (base[index] += point[key]));
      for (const [from, to] of runs(shown, key)) {
        const piece = shown.slice(from, to + 1);
        const upper = steps(piece.map(({ at }, index) => [x(at), y(base[from + index])]), x(shown[to + 1]?.at ?? now));
        const under = steps(piece.map(({ at }, index) => [x(at), y(lower[from + index])]), x(shown[to + 1]?.at ?? now));
        const line = (list) => list.map(([left, height]) => `${left.toFixed(1)},${height.toFixed(1)}`).join(" ");
        parts.push(svg("polygon", { class: `area ${tone}`, points: line([...upper, ...under.reverse()]) }));
        parts.push(svg("polyline", { class: `edge ${tone}`, points: line([under.at(-1), ...upper, ...(to === shown.length - 1 ? [] : [under[0]])]) }));
      }
    }
    const nearest = pointed === null ? null : closest(shown, (point) => Math.abs(x(point.at) - pointed));
    if (nearest) {
      const left = x(nearest.at);
      parts.push(svg("line", { class: "cursor", x1: left, x2: left, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
      const label = `${Math.round((now - nearest.at) / 1000)} s ago`;
      const anchor = left < width / 2 ? "start" : "end";
      parts.push(svg("text", { x: left + (anchor === "start" ? 6 : -6), y: EDGE.top + 4, "text-anchor": anchor }, label));
    }
    picture.replaceChildren(...parts);
    const point = nearest ?? shown.at(-1);
    figures.forEach(({ value }, index) => setText(value, point ? String(point[series[index].key]) : "0"));
    const summary = series.map(({ key, name }) => `${name} ${shown.at(-1)?.[key] ?? 0}`).join(", ");
    picture.setAttribute("aria-label", `${title} over the last minutes. Now: ${summary}. Peak: ${Math.max(0, ...shown.map(total))}.`);
  }

  picture.addEventListener("pointermove", (event) => {
    pointed = event.offsetX;
    paint();
  });
  picture.addEventListener("pointerleave", () => {
    pointed = null;
    paint();
  });
  new ResizeObserver(paint).observe(picture);
  return {
    panel,
    draw(all, at) {
      points = all;
      now = at;
      paint();
    },
  };
}

/** The stretches, first and last index, in which there is something to draw. */
function runs(points, key) {
  const found = [];
  points.forEach((point, index) => {
    if (point[key] === 0) return;
    if (found.at(-1)?.[1] === index - 1) found.at(-1)[1] = index;
    else found.push([index, index]);
  });
  return found;
}

/** Counts change at once: each value holds until the next. */
function steps(corners, end) {
  return corners.flatMap(([left, height], index) => [[left, height], [corners[index + 1]?.[0] ?? end, height]]);
}

function closest(list, distance) {
  return list.reduce((best, item) => (best === null || distance(item) < distance(best) ? item : best), null);
}
