"use strict";
(() => {
  const form = document.getElementById("filters");
  const cards = [...document.querySelectorAll("#gallery .card")];
  const groups = [...document.querySelectorAll("#gallery .group")];

  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (form && target.matches(".card") && target.hidden) { form.reset(); filter(); }
    target.scrollIntoView();
  };

  const filter = () => {
    const wanted = [...form.querySelectorAll("select")].filter((select) => select.value !== "");
    for (const card of cards) {
      card.hidden = !wanted.every((select) => card.dataset[select.name].split(" ").includes(select.value));
    }
    for (const group of groups) group.hidden = ![...group.querySelectorAll(".card")].some((card) => !card.hidden) && wanted.length > 0;
    const shown = cards.filter((card) => !card.hidden).length;
    form.querySelector("output").textContent =
      wanted.length ? `${shown} of ${cards.length} images are shown.` : `All ${cards.length} images are shown.`;
  };

  if (form) {
    form.hidden = false;
    form.addEventListener("change", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const link of document.querySelectorAll("a.to-gallery")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        form.reset();
        for (const select of form.querySelectorAll("select")) {
          if (link.dataset[select.name] !== undefined) select.value = link.dataset[select.name];
        }
        filter();
        form.scrollIntoView();
        form.querySelector("select").focus();
      });
    }
    filter();
  }
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();
})();
