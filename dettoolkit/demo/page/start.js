// A plain script, so that it runs where modules do not: opened from a folder, or in an old browser.
(function () {
  "use strict";
  function show(reason, withCommands) {
    document.getElementById("unstarted").className = "unstarted now";
    document.getElementById("unstarted-reason").textContent = reason;
    ["unstarted-remedy", "unstarted-commands", "unstarted-then"].forEach(function (id) {
      document.getElementById(id).hidden = !withCommands;
    });
  }
  if (location.protocol === "file:") {
    show("It was opened as a file, and browsers do not let files load a model.", true);
  } else if (!("noModule" in HTMLScriptElement.prototype)) {
    show("This browser is too old for it. Use a recent browser.", false);
  } else if (typeof WebAssembly !== "object") {
    // app.js must not open the page over this.
    document.documentElement.setAttribute("data-refused", "");
    show(
      "This browser has no WebAssembly, which the model runs on. It may be switched off, as some browsers' " +
        "strictest settings do: allow it for this page, or use another browser.",
      false
    );
  }
})();
