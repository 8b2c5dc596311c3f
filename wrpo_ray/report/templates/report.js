// Draws the charts of a report with Observable Plot, and filters and sorts its quadruples. Text goes in as text only.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const colour = (number) => `var(--c${number})`;
  const dashes = [undefined, "7,4", "2,3", "9,3,2,3", "4,2", "1,4"];

  const short = (value) => (Math.abs(value) >= 1e4 ? d3.format(".3~s")(value) : String(Number(value.toPrecision(3))));
  const percent = (value) => d3.format(Math.abs(value) < 0.0995 && value !== 0 ? ".1%" : ".0%")(value);
  const seconds = (value) =>
    value < 99.5 ? `${short(value)} s` : value < 5940 ? `${short(value / 60)} min` : `${short(value / 3600)} h`;
  const formatOf = (data) => (data.percent || data.share ? percent : data.seconds ? seconds : short);

  const ticksIn = (width) => Math.max(2, Math.floor(width / 75));

  // Labels stand to the left of what they name, where they fit into less than half of the width; else above it.
  function placed(labels, width) {
    const needed = Math.ceil(16 + 6.9 * Math.max(3, ...labels.map((label) => label.length)));
    const above = needed > width * 0.42;
    return {
      margins: { marginLeft: above ? 8 : needed, marginTop: above ? 34 : 20, marginBottom: 38 },
      inner: width - (above ? 8 : needed),
      fy: above
        ? { axis: null, domain: labels, padding: 0.45 }
        : { label: null, axis: "left", domain: labels, padding: 0.2 },
      heightOf: (pixels) => (above ? (pixels + 6) / 0.55 : pixels / 0.8) * labels.length + (above ? 76 : 62),
      texts: above
        ? [Plot.text(labels, { fy: (label) => label, text: (label) => label, frameAnchor: "top-left", dx: 1, dy: -15 })]
        : [],
    };
  }

  function bars(data, width) {
    const format = formatOf(data);
    const { margins, inner, fy, heightOf, texts } = placed([...new Set(data.rows.map((row) => row.label))], width);
    const series = [...new Set(data.rows.map((row) => row.series ?? ""))];
    const place = { fy: "label", y: (row) => row.series ?? "" };
    return Plot.plot({
      width, ...margins, marginRight: 58, height: heightOf(series.length > 1 ? 14 * series.length : 20),
      x: { label: data.x, tickFormat: format, ticks: ticksIn(inner - 58), grid: true, nice: true },
      y: { axis: null, domain: series, padding: 0.05 }, fy, color: { type: "identity" },
      marks: [
        Plot.barX(data.rows, { x: "value", ...place, fill: (row) => colour(row.colour) }),
        Plot.text(data.rows, {
          x: "value", ...place, text: (row) => format(row.value), textAnchor: "start", dx: 5, fill: "currentColor",
        }),
        Plot.ruleX([0]),
        ...texts,
      ],
    });
  }

  function lines(data, width) {
    const format = formatOf(data);
    const flat = data.series.flatMap((series) =>
      series.points.map(([x, y]) => ({ x, y, name: series.name, colour: colour(series.colour) })));
    const marks = [];
    if (data.zero) marks.push(Plot.ruleY([0], { strokeOpacity: 0.5 }));
    if (data.share) marks.push(Plot.ruleY([0.5], { strokeDasharray: "3,3", strokeOpacity: 0.6 }));
    data.series.forEach((series, index) => {
      const options = { x: (point) => point[0], y: (point) => point[1] };
      const stroke = { stroke: colour(series.colour), strokeWidth: 2, strokeDasharray: dashes[index % dashes.length] };
      marks.push(Plot.line(series.points, { ...options, ...stroke }));
      if (series.points.length < 30) marks.push(Plot.dot(series.points, { ...options, r: 2.5, fill: colour(series.colour) }));
    });
    const steps = d3.ticks(...d3.extent(flat, (row) => row.x), ticksIn(width - 70)).filter(Number.isInteger);
    const told = { x: "x", y: "y", title: (row) => `${row.name}\n${data.x} ${short(row.x)}: ${format(row.y)}` };
    marks.push(Plot.tip(flat, Plot.pointer(told)));
    return Plot.plot({
      width, height: Math.max(220, Math.min(300, width * 0.5)), marginLeft: 52, marginTop: 26, marginBottom: 38,
      x: { label: data.x, tickFormat: short, ticks: steps, nice: false },
      y: { label: data.y, tickFormat: format, grid: true, ...(data.share ? { domain: [0, 1] } : { nice: true }) },
      marks,
    });
  }

  function histogram(data, width) {
    const { margins, inner, fy, heightOf, texts } = placed(data.series.map((series) => series.name), width);
    const flat = data.series.flatMap((series) =>
      series.bins.map(([x1, x2, share]) => ({ x1, x2, share, name: series.name, colour: colour(series.colour) })));
    const [low, high] = [d3.min(flat, (row) => row.x1), d3.max(flat, (row) => row.x2)];
    // A single bin would fill the picture.
    const side = high - low < 1.5 * (flat[0].x2 - flat[0].x1) ? 6 * (high - low) : 0;
    const told = (row) => `${row.name}\n${data.x} ${short(row.x1)} to ${short(row.x2)}: ${percent(row.share)}`;
    return Plot.plot({
      width, ...margins, marginRight: 16, height: heightOf(46),
      x: {
        label: data.x, tickFormat: short, ticks: ticksIn(inner), grid: true, domain: [low - side, high + side],
      },
      y: { axis: null }, fy, color: { type: "identity" },
      marks: [
        Plot.rectY(flat, { x1: "x1", x2: "x2", y: "share", fy: "name", fill: "colour", insetLeft: 0.5, insetRight: 0.5 }),
        Plot.ruleX(data.series, { x: "mean", fy: "name", stroke: "currentColor", strokeWidth: 1.5, strokeDasharray: "4,3" }),
        Plot.ruleY([0], { strokeOpacity: 0.4 }),
        ...texts,
        Plot.tip(flat, Plot.pointer({ x: (row) => (row.x1 + row.x2) / 2, y: "share", fy: "name", title: told })),
      ],
    });
  }

  function ranges(data, width) {
    const format = data.percent ? d3.format(".1%") : short;
    const { margins, inner, fy, heightOf, texts } = placed(data.rows.map((row) => row.label), width);
    const known = data.rows.filter((row) => row.low !== null && row.high !== null);
    const place = { fy: "label", y: () => "" };
    const landmark = data.landmark === undefined ? [] : [data.landmark];
    return Plot.plot({
      width, ...margins, marginRight: 58, height: heightOf(26),
      x: { label: data.x, tickFormat: formatOf(data), ticks: ticksIn(inner - 58), grid: true, nice: true },
      y: { axis: null, type: "point", domain: [""] }, fy, color: { type: "identity" },
      marks: [
        Plot.ruleX(landmark, { strokeDasharray: "4,3", strokeOpacity: 0.7 }),
        Plot.ruleY(known, { x1: "low", x2: "high", ...place, stroke: (row) => colour(row.colour), strokeWidth: 3 }),
        Plot.dot(data.rows, { x: "middle", ...place, r: 5, fill: (row) => colour(row.colour) }),
        Plot.text(data.rows, { x: (row) => row.high ?? row.middle, ...place, text: (row) => format(row.middle),
          textAnchor: "start", dx: 8, fill: "currentColor" }),
        ...texts,
      ],
    });
  }

  function swatch(number, dash) {
    const svg = d3.create("svg").attr("width", 26).attr("height", 10).attr("aria-hidden", "true");
    const line = svg.append("line").attr("x1", 0).attr("x2", 26).attr("y1", 5).attr("y2", 5);
    line.attr("stroke", colour(number)).attr("stroke-width", dash === null ? 9 : 2.5);
    if (dash) line.attr("stroke-dasharray", dash);
    return svg.node();
  }

  // What tells lines, or bars side by side, apart; where each has its own label there is nothing to tell.
  function legend(chart) {
    const { data } = chart;
    let items = [];
    if (chart.kind === "lines" && data.series.length > 1) {
      items = data.series.map((series, index) => [series.name, series.colour, dashes[index % dashes.length]]);
    } else if (chart.kind === "bars") {
      items = [...new Map(data.rows.filter((row) => row.series !== undefined)
        .map((row) => [row.series, [row.series, row.colour, null]])).values()];
    }
    if (!items.length) return null;
    const list = document.createElement("ul");
    list.className = "legend";
    for (const [name, number, dash] of items) {
      const item = document.createElement("li");
      item.append(swatch(number, dash), name);
      list.append(item);
    }
    return list;
  }

  const kinds = { bars, lines, histogram, ranges };

  function draw(figure) {
    const holder = figure.querySelector(".plot");
    const width = Math.floor(holder.clientWidth);
    if (!width || holder.dataset.width === String(width)) return;
    holder.dataset.width = String(width);
    const chart = charts[figure.dataset.chart];
    let svg;
    try {
      svg = kinds[chart.kind](chart.data, width);
    } catch (error) {
      // One picture that cannot be drawn takes nothing else with it; its numbers are in the table below.
      holder.textContent = `This picture could not be drawn: ${error.message}`;
      console.error(error);
      return;
    }
    // It is one picture with one text; the names that Plot gives to its parts say nothing.
    svg.querySelectorAll("[aria-label]").forEach((part) => part.removeAttribute("aria-label"));
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${chart.title}. ${chart.words}`);
    holder.replaceChildren(...[legend(chart), svg].filter(Boolean));
    figure.dataset.drawn = "yes";
  }

  const watcher = new ResizeObserver((entries) => {
    // In the next frame, since drawing changes the size of what is watched.
    requestAnimationFrame(() => entries.forEach((entry) => draw(entry.target.closest("figure"))));
  });
  document.querySelectorAll("figure[data-chart]").forEach((figure) => {
    draw(figure);
    watcher.observe(figure.querySelector(".plot"));
  });

  const tools = document.getElementById("quadruple-tools");
  if (!tools) return;
  const list = document.getElementById("quadruple-list");
  let items = [...list.children].map((item) => ({ item, text: item.textContent.toLowerCase() }));
  const [text, source, order] = ["text", "source", "order"].map((name) => tools.querySelector(`[name=${name}]`));
  const count = document.getElementById("quadruple-count");
  const more = document.getElementById("quadruple-more");
  const page = 20;
  let most = page;

  function show() {
    const words = text.value.toLowerCase();
    let matching = 0;
    for (const { item, text: content } of items) {
      const matches = content.includes(words) && (source.value === "" || item.dataset.source === source.value);
      item.hidden = !matches || matching >= most;
      matching += matches ? 1 : 0;
    }
    count.textContent = `${Math.min(matching, most)} of ${matching} shown`;
    more.hidden = matching <= most;
  }

  function showFirst() {
    most = page;
    show();
  }

  function sort() {
    const [key, direction] = order.value.split(" ");
    const sign = direction === "down" ? -1 : 1;
    items = [...items].sort((a, b) => sign * (Number(a.item.dataset[key]) - Number(b.item.dataset[key])));
    list.append(...items.map(({ item }) => item));
    showFirst();
  }

  text.addEventListener("input", showFirst);
  source.addEventListener("change", showFirst);
  order.addEventListener("change", sort);
  more.addEventListener("click", () => {
    most += page;
    show();
  });
  tools.hidden = false;
  // A browser that goes back to the page fills the form in as it was.
  sort();
})();
