"use strict";
(() => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  const cards = [...document.querySelectorAll("article")].map(card => [card, card.textContent.toLowerCase()]);
  const choose = () => {
    const kind = form.elements.kind.value;
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const [card, text] of cards) {
      card.hidden = (kind && card.className !== kind) || !words.every(word => text.includes(word));
      left += !card.hidden;
    }
    form.querySelector("output").textContent = left === cards.length ? "" : `${left} of ${cards.length} shown`;
  };
  form.hidden = false;
  form.addEventListener("input", choose);
  form.addEventListener("submit", event => event.preventDefault());
  choose();
})();
