"use strict";
// Sorting of the layer table, highlighting across the page, saving of the figures. The page is
// complete without any of it.
(function () {
  const root = document.documentElement;
  window.addEventListener("error", function (e) {
    root.dataset.errors = (root.dataset.errors || "") + e.message + "\n";
  });

  const table = document.getElementById("layers");
  const heads = Array.from(table.tHead.rows[0].cells);

  function sort(key, descending) {
    const column = heads.findIndex((h) => h.dataset.key === key);
    if (column < 0 || !heads[column].querySelector("button")) return false;
    const text = heads[column].classList.contains("text");
    const value = function (row) {
      const raw = row.cells[column].dataset.v;
      if (text) return raw;
      return raw === "" ? -Infinity : Number(raw);
    };
    const rows = Array.from(table.tBodies[0].rows);
    rows.sort(function (a, b) {
      const x = value(a), y = value(b);
      const order = text ? (x < y ? -1 : x > y ? 1 : 0) : x === y ? 0 : x - y;
      if (order !== 0) return descending ? -order : order;
      return Number(a.dataset.i) - Number(b.dataset.i);
    });
    table.tBodies[0].append(...rows);
    heads.forEach((h, i) =>
      i === column
        ? h.setAttribute("aria-sort", descending ? "descending" : "ascending")
        : h.removeAttribute("aria-sort"));
    return true;
  }

  heads.forEach(function (head) {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", function () {
      const now = head.getAttribute("aria-sort");
      const numeric = !head.classList.contains("text") && head.dataset.key !== "index";
      sort(head.dataset.key, now ? now === "ascending" : numeric);
    });
  });

  // A link can ask for an order: report.html#sort=cycles, #sort=-cycles for largest first.
  const asked = /^#sort=(-?)([a-z_]+)$/.exec(window.location.hash);
  if (asked) sort(asked[2], asked[1] === "-");

  // A layer pointed at in the table or in the roofline is shown in both.
  const marked = Array.from(document.querySelectorAll("[data-i]"));
  marked.forEach(function (element) {
    const same = marked.filter((m) => m.dataset.i === element.dataset.i);
    element.addEventListener("pointerenter", () => same.forEach((m) => m.classList.add("hot")));
    element.addEventListener("pointerleave", () => same.forEach((m) => m.classList.remove("hot")));
  });

  const save = document.getElementById("save");
  save.hidden = false;
  save.addEventListener("click", function () {
    const blob = new Blob([document.getElementById("data").textContent], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "edgekit-figures.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  root.dataset.ready = "yes";
})();
