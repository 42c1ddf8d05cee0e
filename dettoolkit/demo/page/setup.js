// What of the page is written once, and the ways by which pictures come in.

import { $ } from "./messages.js";

/**
 * Write all that follows from demo.json and the task's layer. `onSample` is called with a sample picked,
 * `onSwitch` after a part of the layer was shown or hidden.
 */
export function fillPage(demo, layer, onSample, onSwitch) {
  const { slider, switches = [], pointable } = layer;
  document.title = $("title").textContent = demo.title;
  $("slider-control").hidden = !slider;
  if (slider) {
    const { label, min, max, value } = slider;
    $("slider-label").textContent = label;
    Object.assign($("slider"), { min, max, step: 0.01, value });
  }
  $("switches").hidden = switches.length === 0;
  $("switches").replaceChildren(...switches.map((each) => switchOf(each, layer, onSwitch)));
  if (!pointable) {
    $("canvas").removeAttribute("tabindex");
    $("canvas").removeAttribute("aria-describedby");
    $("canvas").setAttribute("role", "img");
    $("canvas").classList.add("still");
  }
  $("facts").replaceChildren(
    ...demo.facts.flatMap(([term, fact]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      [dt.textContent, dd.textContent] = [term, fact];
      return [dt, dd];
    }),
  );
  $("samples-section").hidden = demo.samples.length === 0;
  $("samples").replaceChildren(...demo.samples.map((sample) => sampleButton(sample, onSample)));
}

function switchOf({ key, label }, layer, onSwitch) {
  const [element, input] = ["label", "input"].map((tag) => document.createElement(tag));
  Object.assign(input, { type: "checkbox", checked: true });
  input.addEventListener("change", () => {
    layer.toggle(key, input.checked);
    onSwitch();
  });
  element.className = "switch";
  element.append(input, label);
  return element;
}

function sampleButton(sample, onSample) {
  const [item, button, image] = ["li", "button", "img"].map((tag) => document.createElement(tag));
  button.type = "button";
  button.dataset.name = sample.name;
  button.setAttribute("aria-pressed", "false");
  const { file, name, width, height } = sample;
  Object.assign(image, { src: file, alt: name, width, height, draggable: false });
  button.addEventListener("click", () => onSample(sample));
  button.append(image);
  item.append(button);
  return item;
}

/** Mark the sample of this name as the one shown; any other name marks none. */
export function markSample(name) {
  for (const button of $("samples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.name === name));
  }
}

/** Call `onFile` with every file that is picked, dropped or pasted. */
export function takeFiles(onFile) {
  $("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) onFile(file);
    target.value = ""; // or the same file could not be opened twice
  });
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData, onFile));
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // or the browser leaves the page for the file
    if ([...(event.dataTransfer?.types ?? [])].includes("Files")) $("drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").hidden = true;
    take(event.dataTransfer, onFile);
  });
}

function take(transfer, onFile) {
  const files = [...(transfer?.files ?? [])];
  const file = files.find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (file) onFile(file);
}

/** Hand a file to the user. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
