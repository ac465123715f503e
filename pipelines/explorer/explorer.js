// Keys, the history row behind a pin, pictures that cannot be loaded. Without this the pages work as well.
"use strict";

const pins = () => [...document.querySelectorAll(".pin .name")];

function go(step) {
  const all = pins();
  const at = all.indexOf(document.activeElement);
  const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  if (next) next.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const ask = document.querySelector("[data-ask]");
  const random = document.querySelector("[data-random]");
  if (event.key === "/") { event.preventDefault(); ask.focus(); ask.select(); }
  else if (event.key === "j") go(1);
  else if (event.key === "k") go(-1);
  else if (event.key === "r") location.assign(random.href);
});

function point(event) {
  const pin = event.target.closest && event.target.closest("[data-row]");
  for (const row of document.querySelectorAll(".rows .pointed")) row.classList.remove("pointed");
  const row = pin && document.getElementById(pin.dataset.row);
  if (!row) return;
  row.classList.add("pointed");
  const list = row.parentElement;  // scrolled alone: the page stays where it is
  list.scrollTop = row.offsetTop - list.offsetTop - list.clientHeight / 2;
}
document.addEventListener("focusin", point);
document.addEventListener("mouseover", point);

for (const field of document.querySelectorAll("[data-submit]")) {
  field.addEventListener("change", () => { if (field.form.reportValidity()) field.form.submit(); });
}
for (const form of document.querySelectorAll("form")) {  // no empty names in addresses
  form.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

function drop(image) { image.remove(); }
for (const image of document.querySelectorAll(".picture img")) {
  if (image.complete && !image.naturalWidth) drop(image);
  else image.addEventListener("error", () => drop(image));
}
