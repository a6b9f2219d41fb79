"use strict";
// Draws the counters that the server sends each second. A page that is loaded again gets all of them again.

const SHOWN = 300; // seconds
const TOP = 16, BOTTOM = 18; // room for labels, in pixels

const plain = (n) => n.toLocaleString("en", { maximumFractionDigits: n < 10 ? 1 : 0 });
const scaled = (units, step) => (n) => {
    let unit = 0;
    while (n >= step && unit < units.length - 1) { n /= step; unit++; }
    return `${plain(n)} ${units[unit]}`.trim();
};
const bytes = scaled(["B", "KiB", "MiB", "GiB"], 1024);
const count = scaled(["", "k", "M"], 1000);
const micros = scaled(["µs", "ms", "s"], 1000);

// Title, format, and for each series its name and its value in a sample.
const charts = [
    ["Connections", plain, { open: (s) => s.connections }],
    ["Requests per second", count, { requests: (s) => s.requests }],
    ["Bytes per second", bytes, { received: (s) => s.received, sent: (s) => s.sent }],
    ["Turn time, mean", micros, { turn: (s) => s.turn }],
    ["Busy", (n) => `${plain(n)} %`, { "of one core": (s) => s.busy }],
    ["Not sent yet, files included", bytes, { queued: (s) => s.unsent }],
    ["Jobs that wait for a thread", plain, { waiting: (s) => s.waiting }],
    ["Ends by reason, since the start", count, null],
];

let samples = [];
let counters; // the last ones

// Adds what has happened since the last counters.
function add(next) {
    if (counters) {
        const more = (name) => next[name] - counters[name];
        const rate = (name) => more(name) / more("uptime");
        const [requests, received, sent] = ["requests", "received", "sent"].map(rate);
        const turn = more("busy") / (more("turns") || 1) * 1e6;
        samples.push({ ...next, requests, received, sent, turn, busy: rate("busy") * 100 });
    }
    counters = next;
}

function element(name, attributes = {}, ...children) {
    const made = name === "svg" || ["path", "line", "text"].includes(name)
        ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
}

function nice(max, format) {
    if (format === bytes) return 2 ** Math.ceil(Math.log2(max));
    const power = 10 ** Math.floor(Math.log10(max));
    return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= max);
}

const views = charts.map(([title, format, series]) => {
    const plot = element("svg", { role: "img", "aria-label": title });
    const legend = element("ul");
    document.getElementById("charts").append(element("section", {}, element("h2", {}, title), plot, legend));
    return { format, series, plot, legend };
});

function draw({ format, series, plot, legend }) {
    const last = samples.at(-1);
    const { width, height } = plot.getBoundingClientRect();
    series ??= Object.fromEntries(Object.keys(last.ends).sort().map((why) => [why, (s) => s.ends[why] ?? 0]));
    const lines = Object.entries(series);
    const max = nice(Math.max(1, ...lines.flatMap(([, value]) => samples.map(value))), format);
    const x = (s) => width - (last.uptime - s.uptime) * width / SHOWN;
    const y = (n) => height - BOTTOM - n / max * (height - TOP - BOTTOM);
    const grid = [0, max / 2, max].map((n) => element("line", { class: "grid", x1: 0, x2: width, y1: y(n), y2: y(n) }));
    const paths = lines.map(([, value], i) => {
        const points = samples.map((s) => `${x(s).toFixed(1)} ${y(value(s)).toFixed(1)}`);
        return element("path", { class: `s${i % 8}`, d: `M${points.join("L")}` });
    });
    const labels = [
        element("text", { x: 0, y: TOP - 4 }, format(max)),
        element("text", { x: 0, y: height - 3 }, "5 min ago"),
        element("text", { x: width, y: height - 3, "text-anchor": "end" }, "now"),
    ];
    plot.replaceChildren(...grid, ...paths, ...labels);
    legend.replaceChildren(...lines.map(([name, value], i) =>
        element("li", { class: `s${i % 8}` }, `${name} `, element("b", {}, format(value(last))))));
}

function show() {
    if (!samples.length || document.hidden) return;
    samples = samples.filter((s) => s.uptime > samples.at(-1).uptime - SHOWN);
    views.forEach(draw);
}

const state = document.getElementById("state");
function tell(text, isLost) {
    state.textContent = text;
    state.classList.toggle("lost", isLost);
}

const events = new EventSource("/events");
events.addEventListener("history", (event) => {
    [samples, counters] = [[], undefined];
    JSON.parse(event.data).forEach(add);
    tell("live", false);
    show();
});
events.addEventListener("sample", (event) => { add(JSON.parse(event.data)); show(); });
// The browser connects again by itself, unless the server has refused.
events.onerror = () => tell("not connected, trying again …", true);
document.addEventListener("visibilitychange", show);
window.addEventListener("resize", show);
