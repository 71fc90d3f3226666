// The explorer: reads tables that are dropped, and keeps curves, plane and tables in step with what is chosen.
(() => {
  "use strict";
  const root = document.querySelector(".dualrs-explorer");
  const find = (name) => root.querySelector(`.${name}`);
  const [curves, plane] = root.querySelectorAll("figure.dualrs-chart");
  const STEP = 0.01;
  const state = { tables: [], radius: 0.5, picked: "", order: { by: "certified", down: true }, image: null, wrong: [] };

  const table = (told) => {
    const rows = told.rows.map(([idx, label, predict, radius, correct], k) => ({
      idx, label, predict, radius, reach: correct ? radius : -Infinity,
      votes: Object.fromEntries(Object.entries(told.votes || {}).map(([key, all]) => [key, all[k]])),
    }));
    return { name: told.name, settings: told.settings || {}, rows, shown: told.shown !== false, by: new Map(rows.map((row) => [row.idx, row])) };
  };

  // A file of ours or a published log: a header, then rows between tabs.
  const read = (name, text) => {
    const [head, ...lines] = text.replace(/\r/g, "").split("\n").filter((line) => line.trim());
    const columns = (head || "").split("\t");
    const wanted = ["idx", "label", "predict", "radius", "correct"];
    const lacking = wanted.filter((column) => !columns.includes(column));
    if (lacking.length) throw new Error(`${name}: no column ${lacking.join(", ")} in the first line; wanted a table of certificates or a certification log`);
    if (!lines.length) throw new Error(`${name}: no rows`);
    const votes = {}, settings = {};
    const kept = columns.filter((column) => column.startsWith("votes"));
    kept.forEach((column) => { votes[column] = []; });
    const rows = lines.map((line, number) => {
      const cells = line.split("\t");
      const row = wanted.map((column) => Number(cells[columns.indexOf(column)]));
      const bad = wanted.find((column, k) => !Number.isFinite(row[k]) || cells[columns.indexOf(column)].trim() === "");
      if (cells.length !== columns.length || bad) throw new Error(`${name}, line ${number + 2}: ${bad ? `${bad} is no number` : `${cells.length} cells, wanted ${columns.length}`}`);
      if (row[3] < 0) throw new Error(`${name}, line ${number + 2}: a radius below 0`);
      kept.forEach((column) => votes[column].push(cells[columns.indexOf(column)]));
      return row;
    });
    const seen = new Set(rows.map((row) => row[0]));
    if (seen.size < rows.length) throw new Error(`${name}: an image has two rows`);
    for (const key of ["method", "sigma", "n", "alpha", "seed", "rule"])
      if (columns.includes(key)) settings[key] = lines[0].split("\t")[columns.indexOf(key)];
    return table({ name, rows, votes, settings });
  };

  const chosen = () => state.tables.filter((one) => one.shown);
  const common = () => {
    if (!find("dualrs-common").checked) return null;
    const [first, ...others] = chosen();
    return first ? new Set(first.rows.map((row) => row.idx).filter((idx) => others.every((one) => one.by.has(idx)))) : null;
  };
  const rowsOf = (one, among) => (among ? one.rows.filter((row) => among.has(row.idx)) : one.rows);
  const certified = (rows, radius) => rows.filter((row) => row.reach >= radius).length / rows.length;
  const averaged = (rows) => rows.reduce((sum, row) => sum + Math.max(row.reach, 0), 0) / rows.length;

  // Exact two-sided limits for a share, as confidence_band has them: the share at which so many hits or more
  // (fewer) have probability 0.025, found by bisection on the binomial sum.
  const logs = [0];
  const logFactorial = (n) => { while (logs.length <= n) logs.push(logs[logs.length - 1] + Math.log(logs.length)); return logs[n]; };
  const atMost = (hits, n, share) => {
    let sum = 0;
    for (let k = 0; k <= hits; k += 1)
      sum += Math.exp(logFactorial(n) - logFactorial(k) - logFactorial(n - k) + k * Math.log(share) + (n - k) * Math.log1p(-share));
    return sum;
  };
  const bisect = (below) => {
    let [low, high] = [1e-12, 1 - 1e-12];
    for (let step = 0; step < 60; step += 1) { const mid = (low + high) / 2; if (below(mid)) low = mid; else high = mid; }
    return (low + high) / 2;
  };
  const limits = new Map();
  const band = (hits, n) => {
    const key = `${hits}/${n}`;
    if (!limits.has(key)) limits.set(key, [
      hits === 0 ? 0 : bisect((p) => 1 - atMost(hits - 1, n, p) < 0.025),
      hits === n ? 1 : bisect((p) => atMost(hits, n, p) > 0.025),
    ]);
    return limits.get(key);
  };

  const front = (points) => {
    for (const one of points)
      one.front = points.some((other) => other.natural >= one.natural && other.certified >= one.certified
        && (other.natural > one.natural || other.certified > one.certified)) ? 0 : 1;
    return points;
  };

  const points = (among) => front(chosen().map((one) => {
    const rows = rowsOf(one, among);
    return { label: one.name, natural: certified(rows, 0), certified: certified(rows, state.radius), acr: averaged(rows) };
  }));

  // What the tables are changed only what is drawn of curves; the ruler moves the rest.
  const draw = () => {
    const among = common(), steps = [];
    const last = Math.max(0.01, ...chosen().flatMap((one) => rowsOf(one, among).map((row) => row.radius)));
    const end = Math.round(1.03 * last / STEP) * STEP;
    for (const one of chosen()) {
      const rows = rowsOf(one, among);
      for (let k = 0; rows.length && k * STEP <= end; k += 1) {
        const radius = Math.round(k * STEP * 1e9) / 1e9, hits = rows.filter((row) => row.reach >= radius).length;
        const [low, high] = band(hits, rows.length);
        steps.push({ table: one.name, radius, accuracy: hits / rows.length, low, high });
      }
    }
    if (curves.view) { curves.view.data("steps", steps); curves.view.signal("end", end).signal("picked", state.picked).runAsync(); }
    const slide = curves.querySelector("input[type=range]");
    if (slide) slide.max = end;
    notes(among);
    move();
  };

  const move = () => {
    const found = points(common());
    if (plane.view) { plane.view.data("points", found); plane.view.signal("radius", state.radius).signal("picked", state.picked).runAsync(); }
    list(found);
  };

  let waiting = false; // one move a frame, wherever the ruler is by then
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; move(); });
  };

  const cell = (text, kind = "td") => { const made = document.createElement(kind); made.append(text); return made; };
  const button = (text, act) => { const made = document.createElement("button"); made.type = "button"; made.append(text); made.addEventListener("click", act); return made; };
  const lineOf = (...cells) => { const made = document.createElement("tr"); made.append(...cells); return made; };
  const COLUMNS = { label: "table", images: "images", natural: "at radius 0", certified: "at the ruler", acr: "ACR" };

  const list = (found) => {
    const among = common(), byName = new Map(found.map((one) => [one.label, one]));
    const all = state.tables.map((one) => ({ table: one, label: one.name, images: rowsOf(one, among).length, ...byName.get(one.name) }));
    const { by, down } = state.order;
    all.sort((a, b) => (a[by] === undefined) - (b[by] === undefined) || (a[by] < b[by] ? -1 : a[by] > b[by] ? 1 : 0) * (down ? -1 : 1));
    const head = Object.entries(COLUMNS).map(([key, text]) => {
      const made = cell("", "th"), turned = by === key;
      made.append(button(text, () => { state.order = { by: key, down: turned ? !down : key !== "label" }; move(); }));
      made.setAttribute("aria-sort", turned ? (down ? "descending" : "ascending") : "none");
      return made;
    });
    const shown = (value) => (value === undefined || Number.isNaN(value) ? "" : (Math.floor(value * 1000 + 1e-9) / 1000).toFixed(3));
    const body = all.map((one) => {
      const box = document.createElement("input");
      box.type = "checkbox"; box.checked = one.table.shown; box.setAttribute("aria-label", `show ${one.label}`);
      box.addEventListener("change", () => { one.table.shown = box.checked; draw(); });
      const name = cell("", "td");
      name.append(button(one.label, () => pick(one.label)));
      const row = lineOf(cell(box), name, cell(String(one.images)), ...["natural", "certified", "acr"].map((key) => cell(shown(one[key]))));
      row.classList.toggle("dualrs-chosen", one.label === state.picked);
      return row;
    });
    const kept = find("dualrs-tables");
    kept.tHead.replaceChildren(lineOf(cell("", "th"), ...head));
    kept.tBodies[0].replaceChildren(...body);
    const names = ["table", "images", "r = 0", `r = ${state.radius}`, "ACR"];
    const values = all.filter((one) => one.table.shown).map((one) => [one.label, one.images, shown(one.natural), shown(one.certified), shown(one.acr)]);
    const quoted = (text) => (/[",\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : String(text));
    const tex = (text) => String(text).replace(/[\\&%$#_{}~^]/g, (sign) => ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" })[sign] || `\\${sign}`).replaceAll("σ", "$\\sigma$");
    const file = (kind, text) => `data:${kind};charset=utf-8,${encodeURIComponent(text)}`;
    find("dualrs-csv").href = file("text/csv", [names, ...values].map((line) => line.map(quoted).join(",")).join("\n") + "\n");
    const lines = [names, ...values].map((line) => `${line.map(tex).join(" & ")} \\\\`);
    find("dualrs-tex").href = file("application/x-tex", ["\\begin{tabular}{lrrrr}", "\\toprule", lines[0], "\\midrule", ...lines.slice(1), "\\bottomrule", "\\end{tabular}", ""].join("\n"));
  };

  const notes = (among) => {
    const told = state.wrong.map((text) => ({ text, wrong: true })), [first, ...others] = chosen();
    for (const one of others) {
      const both = one.rows.filter((row) => first.by.has(row.idx));
      const other = both.find((row) => row.label >= 0 && first.by.get(row.idx).label >= 0 && row.label !== first.by.get(row.idx).label);
      if (other) told.push({ text: `${one.name} and ${first.name} label image ${other.idx} differently: they are not about the same images`, wrong: true });
      else if (!among && (both.length < one.rows.length || both.length < first.rows.length))
        told.push({ text: `${one.name} is about ${one.rows.length} images, ${first.name} about ${first.rows.length}; both hold ${both.length} of them` });
    }
    if (among && !among.size) told.push({ text: "no image is in all chosen tables", wrong: true });
    find("dualrs-notes").replaceChildren(...told.map(({ text, wrong }) => { const made = document.createElement("li"); made.textContent = text; if (wrong) made.className = "dualrs-wrong"; return made; }));
  };

  const pick = (name) => {
    state.picked = state.picked === name ? "" : name;
    const one = state.tables.find((other) => other.name === state.picked);
    const told = one ? Object.entries(one.settings).map(([key, value]) => `${key} ${value}`).join(", ") : "";
    find("dualrs-picked").textContent = one ? `${one.name}: ${told || "its file says nothing of its settings"}` : "";
    draw();
  };

  const told = JSON.parse(document.getElementById("dualrs-classes").textContent);
  // the pictures' names are those of a table that labels all of them as they are
  const named = (one, kind) => {
    one.known ??= one.rows.some((row) => told.labels[row.idx] === row.label)
      && one.rows.every((row) => row.label < 0 || [undefined, row.label].includes(told.labels[row.idx]));
    return one.known && told.names[kind] !== undefined ? told.names[kind] : null;
  };

  const image = (idx) => {
    state.image = idx;
    root.querySelectorAll(".dualrs-pictures button").forEach((made) => made.classList.toggle("dualrs-chosen", Number(made.dataset.idx) === idx));
    find("dualrs-number").value = idx;
    const kept = find("dualrs-image");
    kept.tHead.replaceChildren(lineOf(...["table", "answer", "label", "radius", "votes"].map((text) => cell(text, "th"))));
    const rows = chosen().map((one) => {
      const row = one.by.get(idx);
      if (!row) return lineOf(cell(one.name), cell("not in this table"));
      const answer = row.predict < 0 ? "abstains" : `${named(one, row.predict) ?? `class ${row.predict}`}${row.predict === row.label ? "" : ", wrong"}`;
      const votes = Object.entries(row.votes).filter(([, text]) => text).map(([key, text]) => `${key.replace("votes_", "σ = ").replace("votes", "")} ${text}`.trim()).join("; ");
      const counted = votes.replace(/(\d+):(\d+)/g, (_, kind, count) => `${named(one, kind) ?? kind}:${count}`);
      return lineOf(cell(one.name), cell(answer), cell(named(one, row.label) ?? String(row.label)), cell((Math.floor(row.radius * 1000) / 1000).toFixed(3)), cell(counted));
    });
    kept.tBodies[0].replaceChildren(...rows);
  };

  const add = async (files) => {
    state.wrong = [];
    for (const file of files) {
      try {
        let name = file.name.replace(/\.(tsv|txt)$/, "");
        while (state.tables.some((one) => one.name === name)) name += "′";
        state.tables.push(read(name, await file.text()));
      } catch (error) { state.wrong.push(error.message); }
    }
    draw();
  };

  const listen = () => {
    if (!curves.view || !plane.view) { setTimeout(listen, 50); return; }
    for (const figure of [curves, plane]) {
      if (figure.heard === figure.view) continue;
      figure.heard = figure.view;
      if (figure === curves) {
        state.radius = figure.view.signal("radius");
        figure.view.addSignalListener("radius", (_, radius) => { state.radius = radius; soon(); });
      } else figure.view.addEventListener("click", (_, item) => { if (item && item.datum && item.datum.label) pick(item.datum.label); });
    }
    draw();
  };

  state.tables = JSON.parse(document.getElementById("dualrs-tables").textContent).map(table);
  root.querySelector("input[type=file]").addEventListener("change", (event) => add(event.target.files));
  find("dualrs-common").addEventListener("change", draw);
  find("dualrs-number").addEventListener("change", (event) => image(Number(event.target.value)));
  root.querySelectorAll(".dualrs-pictures button").forEach((made) => made.addEventListener("click", () => image(Number(made.dataset.idx))));
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dualrs-over"); });
  addEventListener("dragleave", () => document.body.classList.remove("dualrs-over"));
  addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dualrs-over"); add(event.dataTransfer.files); });
  new MutationObserver(listen).observe(curves, { attributes: true, attributeFilter: ["data-drawn"] });
  new MutationObserver(listen).observe(plane, { attributes: true, attributeFilter: ["data-drawn"] });
  window.dualrsExplorer = { state, band, add };
  listen();
})();
