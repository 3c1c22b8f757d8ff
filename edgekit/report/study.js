"use strict";
// Pointing at a trial shows it in every drawing; a click shows its recipe; while the search runs the page
// asks for news. The page is complete without any of it (links and :target do the same).
(function () {
  const root = document.documentElement;
  window.addEventListener("error", function (e) {
    root.dataset.errors = (root.dataset.errors || "") + e.message + "\n";
  });

  const marked = Array.from(document.querySelectorAll("[data-trial]"));
  const byTrial = new Map();
  marked.forEach(function (m) {
    if (!byTrial.has(m.dataset.trial)) byTrial.set(m.dataset.trial, []);
    byTrial.get(m.dataset.trial).push(m);
  });
  function hot(trial, on) {
    (byTrial.get(trial) || []).forEach((m) => m.classList.toggle("hot", on));
  }
  marked.forEach(function (m) {
    m.addEventListener("pointerenter", () => hot(m.dataset.trial, true));
    m.addEventListener("pointerleave", () => hot(m.dataset.trial, false));
  });

  const details = Array.from(document.querySelectorAll(".detail"));
  function show() {
    const asked = /^#trial-(\d+)$/.exec(window.location.hash);
    const id = asked ? "trial-" + asked[1] : details.length ? details[0].id : "";
    details.forEach((d) => d.classList.toggle("shown", d.id === id));
    root.dataset.shown = id;
  }
  window.addEventListener("hashchange", show);
  show();

  // A click on a line or a point goes to its recipe, and stays where the reader is.
  document.querySelectorAll("svg [data-trial]").forEach(function (m) {
    m.addEventListener("click", function (e) {
      e.preventDefault();
      history.replaceState(null, "", "#trial-" + m.dataset.trial);
      show();
    });
  });
  const click = /^#click-(\d+)$/.exec(window.location.hash); // for tests: as if it had been clicked
  if (click) {
    const m = document.querySelector('svg [data-trial="' + click[1] + '"]');
    if (m) {
      m.dispatchEvent(new PointerEvent("pointerenter"));
      m.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    }
  }

  const save = document.getElementById("save");
  save.hidden = false;
  save.addEventListener("click", function () {
    const blob = new Blob([document.getElementById("data").textContent], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "edgekit-study.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  if (root.dataset.live) {
    let known = null;
    const ask = function () {
      fetch("version", { cache: "no-store" })
        .then((r) => r.text())
        .then(function (v) {
          if (known === null) known = v;
          else if (v !== known) window.location.reload();
          root.dataset.polled = "yes";
        })
        .catch(() => root.removeAttribute("data-polled"));
    };
    ask();
    window.setInterval(ask, 2000);
  }
  root.dataset.ready = "yes";
})();
