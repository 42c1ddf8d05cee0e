// What the page says: the state of the model, problems, and words for screen readers.

export const $ = (id) => document.getElementById(id);

/** Say something to screen readers; the same twice is said twice. */
export function say(text) {
  const element = $("announcement");
  element.textContent = element.textContent === text ? `${text}\u00a0` : text;
}

/** Show what went wrong, with a button to try again where that may help. */
export function complain(text, retry) {
  $("problem").hidden = false;
  $("problem-text").textContent = text;
  $("problem-retry").hidden = !retry;
  $("problem-retry").onclick = () => {
    hideProblem();
    retry();
  };
}

export function hideProblem() {
  $("problem").hidden = true;
  $("problem-text").textContent = "";
}

/** Show the model's state beside the heading: "loading", "ready" or "failed". */
export function setBackend(state, text) {
  $("backend").dataset.state = state;
  $("backend-text").textContent = text;
  $("loading").hidden = state !== "loading";
}

export function showProgress(loaded, total) {
  const mega = (bytes) => (bytes / 1e6).toFixed(1);
  $("loading-bar").value = Math.min(1, loaded / total);
  $("loading-text").textContent =
    loaded < total ? `Loading the model, ${mega(loaded)} of ${mega(total)} MB` : "Preparing the model";
}

/** Show whether the camera is on. */
export function showCamera(live) {
  $("camera").setAttribute("aria-pressed", String(live));
  $("camera-text").textContent = live ? "Stop camera" : "Use camera";
  if (!live) $("camera-choice").hidden = true;
}

/** Show what is under the pointer or the cross, at (x, y) in fractions of the stage. */
export function showTip(color, text, x, y) {
  const tip = $("tip");
  tip.hidden = false;
  $("tip-swatch").style.backgroundColor = `rgb(${color})`;
  $("tip-text").textContent = text;
  tip.style.left = `${100 * x}%`;
  tip.style.top = `${100 * y}%`;
  tip.classList.toggle("to-left", x > 0.6);
  tip.classList.toggle("above", y > 0.6);
}

export function hideTip() {
  $("tip").hidden = true;
}
