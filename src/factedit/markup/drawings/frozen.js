// In a file or a notebook: what stands as a plain table is drawn, from the numbers that the file holds.

import { drawn } from "./drawings.js";

const told = JSON.parse(document.getElementById("numbers").textContent);
document.querySelectorAll("[data-drawing]").forEach((place, n) => {
  const besides = [...place.querySelectorAll("[data-beside]")].map((node) => [node.dataset.beside, [...node.childNodes]]);
  try { place.replaceWith(drawn(place.dataset.drawing, told[n], Object.fromEntries(besides))); }
  catch (error) { console.error(error); } // the plain table stands
});
