"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const { scorers, base, contrasted, reasons, rows, extra, more } = JSON.parse($("data").textContent);
  const pictures = JSON.parse($("pictures").textContent);
  const STEP = 100;

  // Pictures: each is kept once and handed to every <img> that shows it, near the view first, the rest when idle.
  const images = [...document.querySelectorAll("img[data-p]")];
  const state = document.documentElement.dataset;
  let loaded = 0, failed = 0;
  const count = (img) => {
    if (img.naturalWidth) loaded++; else failed++;
    if (loaded + failed === images.length) tell();
  };
  const tell = () => { state.pictures = `${loaded}/${images.length}`; state.failed = failed; };
  const fill = (img) => {
    if (img.src) return;
    img.onload = img.onerror = () => count(img);
    img.src = "data:image/jpeg;base64," + pictures[img.dataset.p];
  };
  tell();
  const watch = new IntersectionObserver((seen) => seen.forEach((entry) => {
    if (entry.isIntersecting) { fill(entry.target); watch.unobserve(entry.target); }
  }), { rootMargin: "800px" });
  images.forEach((img) => watch.observe(img));
  const idle = window.requestIdleCallback || ((f) => setTimeout(f, 50));
  let next = 0;
  const fillSome = () => {
    for (const end = Math.min(next + 40, images.length); next < end; next++) fill(images[next]);
    if (next < images.length) idle(fillSome);
  };
  idle(fillSome);
  addEventListener("beforeprint", () => images.forEach(fill));

  // The table of all neurons.
  const [NEURON, NAME, STATUS, LABELS, SCORE, CHANGED, MAXIMUM, FIRES, COSINE, SHOWN] = [...Array(10).keys()];
  const [SURE, WORD, TESTED, SEEN] = [...Array(4).keys()];
  const about = new Map(rows.map((row, i) => [row, extra[i]]));
  const asked = extra.some((e) => e[SURE] !== null), pictured = extra.some((e) => e[SEEN].length);
  let every = false;
  const short = (v) => {
    if (v === null) return "–";
    const size = Math.abs(v);
    if (size < 0.001) return size ? v.toExponential(1) : "0";
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.9995 ? 2 : 3;
    return v.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const percent = (v) => v === null ? "–" : (100 * v).toFixed(1) + " %";
  const columns = [
    { title: "Neuron", of: (r) => r[NEURON], kind: "name" },
    { title: "Label", of: (r) => r[LABELS][0], kind: "label", tip: scorers[0] },
    ...(asked && scorers[0] === "auto" ? [] : [{ title: "Score", of: (r) => r[SCORE], show: short, kind: "points" }]),
    ...(asked ? [{ title: "Confidence", of: (r) => about.get(r)[SURE], kind: "confidence", high: true }] : []),
    ...(pictured ? [{ title: "Most active images", of: (r) => about.get(r)[SEEN].length ? r[MAXIMUM] : null, kind: "pictures", high: true }] : []),
    ...scorers.slice(1).map((scorer, i) => ({ title: scorer, of: (r) => r[LABELS][i + 1], kind: "other", scorer })),
    { title: "Cosine", of: (r) => r[COSINE], show: short, wide: true, tip: "mean cosine of a positive and its contrast" },
    { title: "Max", of: (r) => r[MAXIMUM], show: short, wide: true, tip: "largest activation" },
    { title: "Fires", of: (r) => r[FIRES], show: percent, wide: true, tip: "share of images with a positive activation" },
  ];
  let sorted = 0, down = false, visible = STEP, found = rows;

  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const classes = (column) => [column.wide && "wide", column.show && "number", column.kind].filter(Boolean).join(" ");
  const picture = (place) => {
    const img = make("img");
    img.alt = "";
    img.src = "data:image/jpeg;base64," + pictures[place];
    return img;
  };
  const bar = (share, word) => {
    const whole = make("span", undefined, "bar " + (word || "")), part = make("i", undefined, "w" + Math.round(100 * share));
    whole.append(part);
    return whole;
  };
  const cell = (row, column) => {
    const value = column.of(row);
    const td = make("td", undefined, classes(column));
    if (column.kind === "name") {
      const name = make(row[SHOWN] ? "a" : "span", row[NAME]);
      if (row[SHOWN]) name.href = "#n" + row[NEURON];
      td.append(name);
    } else if (column.kind === "label" && value === null) {
      td.append(make("span", row[STATUS], "status"), " ", make("span", reasons[row[STATUS]] || "no label", "why"));
    } else if (column.kind === "confidence") {
      const [sure, word, tested] = about.get(row), told = make("span", undefined, "sure");
      if (sure !== null) told.append(bar(sure, word), (Math.floor(100 * sure) / 100).toFixed(2) + " " + word);
      if (tested === "verified" || tested === "refuted") told.append(make("b", tested, "outcome " + tested));
      td.append(told);
    } else if (column.kind === "pictures") {
      const seen = make("div", undefined, "thumbs");
      seen.append(...about.get(row)[SEEN].map(picture));
      td.append(seen);
    } else if (column.show) {
      td.textContent = column.show(value);
    } else {
      const by_contrast = column.kind === "label" && row[CHANGED] && value === row[LABELS][scorers.indexOf(contrasted)];
      const before = by_contrast ? row[LABELS][scorers.indexOf(base)] : null;
      if (before) td.append(make("del", before));
      td.append(value === null ? "–" : value);
    }
    if (column.scorer) {
      td.dataset.scorer = column.scorer;
      td.hidden = !every;
    }
    return td;
  };
  const draw = () => {
    const body = document.createDocumentFragment();
    for (const row of found.slice(0, visible)) {
      const tr = make("tr", undefined, row[LABELS][0] === null ? "skipped" : "");
      tr.append(...columns.map((column) => cell(row, column)));
      body.append(tr);
    }
    $("rows").replaceChildren(body);
    const n = (v) => v.toLocaleString("en");
    $("count").textContent = found.length
      ? `${n(Math.min(visible, found.length))} of ${n(found.length)}${found.length < rows.length ? ` found (${n(rows.length)} in all)` : ""}`
      : "Nothing found.";
    $("more").hidden = visible >= found.length;
  };
  const compare = (a, b) => typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
  const update = () => {
    const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = $("status").value, changed = $("changed").checked, of = columns[sorted].of;
    found = rows.filter((r) => {
      if ((status && r[STATUS] !== status) || (changed && !r[CHANGED])) return false;
      const text = [r[NAME], ...r[LABELS]].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    }).sort((a, b) => {
      const x = of(a), y = of(b);
      if (x === null || y === null) return (x === null) - (y === null) || a[NEURON] - b[NEURON];
      return (down ? compare(y, x) : compare(x, y)) || a[NEURON] - b[NEURON];
    });
    [...$("head").querySelectorAll("th")].forEach((th, i) =>
      i === sorted ? th.setAttribute("aria-sort", down ? "descending" : "ascending") : th.removeAttribute("aria-sort"));
    draw();
  };
  const header = make("tr");
  columns.forEach((column, i) => {
    const th = make("th", undefined, classes(column));
    th.hidden = Boolean(column.scorer);
    const button = make("button", column.title);
    button.type = "button";
    if (column.tip) button.title = column.tip;
    button.addEventListener("click", () => {
      down = i === sorted ? !down : Boolean(column.show || column.high);
      sorted = i;
      update();
    });
    th.scope = "col";
    th.append(button);
    header.append(th);
  });
  $("head").append(header);
  $("changed-only").hidden = !rows.some((r) => r[CHANGED] !== null);
  const restart = () => { visible = STEP; update(); };
  $("scorers").parentElement.hidden = scorers.length < 2;
  $("scorers").addEventListener("change", () => {
    every = $("scorers").checked;
    columns.forEach((column, i) => { if (column.scorer) header.children[i].hidden = !every; });
    draw();
  });
  $("find").addEventListener("input", restart);
  $("status").addEventListener("change", restart);
  $("changed").addEventListener("change", restart);
  $("more").addEventListener("click", () => { visible += 5 * STEP; draw(); });
  document.querySelectorAll("[data-find]").forEach((chip) => chip.addEventListener("click", () => {
    $("find").value = $("find").value === chip.dataset.find ? "" : chip.dataset.find;
    restart();
  }));
  // Pairs beyond the first ones, when they are asked for.
  const half = (it) => {
    const div = make("div", undefined, it.side);
    if (it.id) div.title = it.id;
    if (it.none || it.at === null) div.append(make("div", it.none || "no picture", "none"));
    else {
      const img = picture(it.at);
      img.alt = it.id;
      div.append(img);
    }
    if (!it.none) div.append(bar(it.share / 100), make("span", short(it.value), "value"), make("span", it.word, "id"));
    return div;
  };
  document.querySelectorAll(".all-pairs").forEach((button) => {
    const own = more[button.dataset.neuron] || [], list = button.parentElement.querySelector(".pairs");
    const first = list.children.length;
    button.hidden = !own.length;
    button.textContent = `Show all ${first + own.length} pairs`;
    button.addEventListener("click", () => {
      list.append(...own.map((it) => {
        const li = make("li");
        li.append(half(it.positive), make("span", it.cosine, "cos"), half(it.contrast));
        return li;
      }));
      button.remove();
    });
  });
  let before = STEP;
  addEventListener("beforeprint", () => { before = visible; visible = Math.max(visible, 1000); draw(); });
  addEventListener("afterprint", () => { visible = before; draw(); });
  update();
})();
