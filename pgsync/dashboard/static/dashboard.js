// What the pages do by themselves: stay fresh, draw the chart, and obey the keyboard. All of it is a
// convenience; every page and every action works without.
"use strict";

(() => {
  const live = () => document.getElementById("live");
  const pause = document.getElementById("pause");
  const every = document.getElementById("every");
  let stream = null;

  // A swap would take away what somebody is about to do; of a link that is pressed, the click.
  const isBusy = () =>
    live().querySelector(":active, input:checked, input:focus, select:focus, details.act[open], .act details[open]") !== null;

  function show(state) {
    pause.className = `small ${state}`;
    pause.textContent = { fresh: "Live", paused: "Paused", stale: "Reconnecting" }[state];
    pause.setAttribute("aria-pressed", String(state === "paused"));
  }

  function swap(html) {
    const opened = [...live().querySelectorAll("details")].map((each) => each.open);
    const scrolled = [...live().querySelectorAll(".scroll, pre")].map((each) => each.scrollLeft);
    htmx.swap(live(), html, { swapStyle: "innerHTML" });
    live().querySelectorAll("details").forEach((each, n) => { if (n < opened.length) each.open = opened[n]; });
    live().querySelectorAll(".scroll, pre").forEach((each, n) => { each.scrollLeft = scrolled[n] || 0; });
    drawCharts();
  }

  function follow() {
    if (!pause) return;
    if (stream) stream.close();
    document.getElementById("follow").hidden = false;
    every.value = localStorage.getItem("pgsync-every") || every.value;
    if (localStorage.getItem("pgsync-paused")) {
      stream = null;
      show("paused");
      return;
    }
    const from = new URL(location.href);
    from.searchParams.set("every", every.value);
    stream = new EventSource(from);
    stream.onopen = () => show("fresh");
    stream.onmessage = (event) => { show("fresh"); if (!isBusy()) swap(event.data); };
    stream.onerror = () => { if (stream && stream.readyState === EventSource.CLOSED) show("stale"); };
    stream.addEventListener("stale", () => show("stale"));
  }

  function togglePause() {
    if (localStorage.getItem("pgsync-paused")) localStorage.removeItem("pgsync-paused");
    else localStorage.setItem("pgsync-paused", "yes");
    follow();
  }

  function drawCharts() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    for (const chart of document.querySelectorAll(".chart")) {
      const numbers = (name) => chart.dataset[name].split(",").map(Number);
      const completed = numbers("completed"), failed = numbers("failed");
      const from = Number(chart.dataset.from);
      const times = completed.map((_, n) => from + 60 * n);
      const axis = {
        stroke: dark ? "#98a4ad" : "#5d6972",
        grid: { stroke: dark ? "#262e34" : "#edf0f2", width: 1 }, ticks: { show: false }, font: "11px system-ui",
      };
      const clock = (_, moments) => moments.map((each) => new Date(each * 1000).toTimeString().slice(0, 5));
      const line = (label, ink) => ({
        label, stroke: ink, fill: ink + "22", width: 1.5, points: { show: false },
      });
      chart.replaceChildren();
      new uPlot({
        width: chart.clientWidth, height: 150, legend: { show: true, live: true },
        cursor: { y: false }, axes: [{ ...axis, values: clock, size: 28 }, { ...axis, size: 46 }],
        scales: { y: { range: (_, __, most) => [0, Math.max(5, most * 1.1)] } },
        series: [{ value: "{HH}:{mm}" },
          line("completed", dark ? "#57c26f" : "#1a7f37"), line("discarded or cancelled", dark ? "#ff8a80" : "#c0352b")],
      }, [times, completed, failed], chart);
    }
  }

  let went = false;
  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const key = event.key;
    if (went) {
      went = false;
      const to = document.querySelector(`nav a[data-key="${CSS.escape(key)}"]`);
      if (to) to.click();
    } else if (key === "g") went = true;
    else if (key === "p" && pause) togglePause();
    else if (key === "i" && every) every.focus();
    else if (key === "?") document.getElementById("help")?.showModal();
    else if (key === "/") {
      const field = document.querySelector("#filter input[type=search]");
      if (field) { event.preventDefault(); field.focus(); }
    }
  }

  document.addEventListener("keydown", press);
  document.addEventListener("change", (event) => {
    if (event.target.id !== "all") return;
    live().querySelectorAll("input[name=id]").forEach((each) => { each.checked = event.target.checked; });
  });
  // Empty fields stay out of the URL.
  document.addEventListener("htmx:configRequest", (event) => {
    for (const [name, value] of Object.entries(event.detail.parameters)) {
      if (value === "") delete event.detail.parameters[name];
    }
  });
  document.addEventListener("htmx:pushedIntoHistory", follow);
  if (pause) pause.addEventListener("click", togglePause);
  if (every) every.addEventListener("change", () => {
    localStorage.setItem("pgsync-every", every.value);
    every.blur();
    follow();
  });
  addEventListener("pagehide", () => stream && stream.close());
  addEventListener("resize", drawCharts);
  drawCharts();
  follow();
})();
