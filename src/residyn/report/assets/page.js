"use strict";
// The page is whole without this: it only adds filtering by verdict, sorting, and a mark for where one is.
(() => {
  const rows = [...document.querySelectorAll("tr[data-verdict]")];
  const kinds = ["fail", "warn", "pass", "info"].filter((kind) => rows.some((row) => row.dataset.verdict === kind));
  if (kinds.length > 1) {
    const box = document.createElement("div");
    box.className = "filter";
    box.setAttribute("role", "group");
    const words = document.querySelector(".masthead").dataset;
    box.setAttribute("aria-label", words.group);
    const label = document.createElement("span");
    label.textContent = words.show;
    box.append(label);
    const buttons = ["all", ...kinds].map((kind) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = words[kind];
      button.dataset.kind = kind;
      button.setAttribute("aria-pressed", String(kind === "all"));
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        for (const row of rows) row.hidden = kind !== "all" && row.dataset.verdict !== kind;
        for (const table of document.querySelectorAll("table.findings"))
          table.hidden = ![...table.querySelectorAll("tr[data-verdict]")].some((row) => !row.hidden);
      });
      return button;
    });
    box.append(...buttons);
    document.querySelector(".masthead").append(box);
  }

  const value = (row, column) => {
    const cell = row.cells[column];
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  for (const table of document.querySelectorAll("table.plain")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sorted = [...table.tBodies[0].rows].sort((a, b) => {
          const [x, y] = [value(a, column), value(b, column)];
          const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return down ? -order : order;
        });
        table.tBodies[0].append(...sorted);
      });
    });
  }

  const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
  const visible = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) entry.isIntersecting ? visible.add(entry.target.id) : visible.delete(entry.target.id);
    const here = [...links.keys()].find((id) => visible.has(id));
    for (const [id, link] of links) id === here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }, { rootMargin: "-10% 0px -70% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);
})();
