"use strict";
(() => {
  const form = document.getElementById("filters");
  const cards = [...document.querySelectorAll("#gallery .card")];
  const groups = [...document.querySelectorAll("#gallery .group")];

  const unfold = (target) => {
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    for (const fold of target.querySelectorAll(":scope > details.fold")) fold.open = true;
  };

  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    unfold(target);
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
        unfold(form);
        form.scrollIntoView();
        form.querySelector("select").focus();
      });
    }
    filter();
  }

  // A link to where the address points already changes no address.
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash && !event.defaultPrevented) reveal();
  });
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.fold:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });

  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.innerHTML = '<form method="dialog"><p></p><button>Close</button></form><div></div>';
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  const enlarge = (figure, drawing) => {
    const copy = drawing.cloneNode(true);
    for (const layer of copy.querySelectorAll("[id]")) layer.removeAttribute("id");
    dialog.querySelector("div").replaceChildren(copy);
    dialog.querySelector("p").textContent = figure.querySelector("figcaption").textContent;
    dialog.setAttribute("aria-label", drawing.getAttribute("aria-label") ?? drawing.alt);
    // Where it takes the shape of the section's pictures, and their pixels.
    figure.closest("section").append(dialog);
    dialog.showModal();
  };

  for (const figure of document.querySelectorAll(".pictures figure, .suspects figure")) {
    const drawing = figure.querySelector("svg, img");
    if (!drawing) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.setAttribute("aria-label", `Enlarge: ${drawing.getAttribute("aria-label") ?? drawing.alt}`);
    button.addEventListener("click", () => enlarge(figure, drawing));
    drawing.after(button);
  }

  const opacity = document.querySelector(".opacity");
  if (opacity) dialog.querySelector("p").after(opacity.cloneNode(true));
  const sliders = [...document.querySelectorAll(".opacity"), ...dialog.querySelectorAll(".opacity")];
  for (const slider of sliders) {
    slider.hidden = false;
    slider.addEventListener("input", (event) => {
      document.documentElement.style.setProperty("--map-opacity", event.target.value / 100);
      for (const other of sliders) other.querySelector("input").value = event.target.value;
    });
  }
})();
