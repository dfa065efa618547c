"use strict";
// Search and zoom in a flame graph. Frames are what is in the file already: without this they are all there, too.
const frames = [...document.querySelectorAll("g.frame")].map(node => {
  const rect = node.querySelector("rect"), text = node.querySelector("text"), title = node.querySelector("title").textContent;
  return { node, rect, text, name: title.replace(/: [0-9]+ calls, [0-9.]+ %$/, ""), calls: Number(title.match(/: ([0-9]+) calls/)?.[1] ?? 0),
    x: Number(rect.getAttribute("x")), width: Number(rect.getAttribute("width")), y: Number(rect.getAttribute("y")), fill: rect.getAttribute("fill") };
});
const WIDTH = 1200, LETTER = 6.6, matched = document.getElementById("matched");
function zoom(to) {
  for (const frame of frames) {
    const scale = WIDTH / to.width, x = (frame.x - to.x) * scale, width = frame.width * scale;
    const shown = x + width > 0.05 && x < WIDTH - 0.05 && width > 0.4, left = Math.max(0, x), right = Math.min(WIDTH, x + width);
    frame.node.style.display = shown ? "" : "none";
    frame.rect.setAttribute("x", left);
    frame.rect.setAttribute("width", Math.max(0, right - left));
    frame.rect.setAttribute("fill-opacity", frame.width > to.width + 0.05 ? 0.45 : 1);
    frame.text.setAttribute("x", left + 3);
    const letters = Math.floor((right - left - 6) / LETTER);
    frame.text.textContent = letters < 3 ? "" : frame.name.length <= letters ? frame.name : frame.name.slice(0, letters - 1) + "…";
  }
}
function search(text) {
  const wanted = text.toLowerCase();
  const hits = frames.filter(frame => wanted !== "" && frame.name.toLowerCase().includes(wanted));
  for (const frame of frames) frame.rect.setAttribute("fill", hits.includes(frame) ? "#b05cd6" : frame.fill);
  // A frame on top of another that matches is counted with that one.
  const within = (a, b) => a !== b && b.y < a.y && a.x >= b.x - 0.05 && a.x + a.width <= b.x + b.width + 0.05;
  const calls = hits.filter(frame => !hits.some(other => within(frame, other))).reduce((sum, frame) => sum + frame.calls, 0);
  const all = Math.max(1, ...frames.map(frame => frame.calls));
  matched.textContent = wanted === "" ? "" : `"${text}": ${hits.length} frame${hits.length === 1 ? "" : "s"}, ${(calls / all * 100).toFixed(2)} % of the calls`;
}
const ask = () => { const text = prompt("Search for a part of a name (empty: none)", ""); if (text !== null) search(text); };
for (const frame of frames) {
  frame.node.setAttribute("tabindex", "0");
  frame.node.addEventListener("click", () => zoom(frame));
  frame.node.addEventListener("keydown", event => { if (event.key === "Enter") zoom(frame); });
}
const reset = () => zoom({ x: 0, width: WIDTH });
document.getElementById("search").addEventListener("click", ask);
document.getElementById("reset").addEventListener("click", reset);
addEventListener("keydown", event => {
  if (event.key === "/") { event.preventDefault(); ask(); }
  if (event.key === "Escape") { search(""); reset(); }
});
const hash = decodeURIComponent(location.hash.slice(1));
if (hash !== "") search(hash);
