// Views of masks: hover, touch or a press on a word shows its mask alone. Works on whatever the page inserts later.
(() => {
  const PLAIN = 0.28; // brightness of everything else while one word is in focus

  let asked = false; // whether a button was pressed whose answer may lie below the screen
  document.addEventListener("click", (event) => {
    asked = asked || event.target.closest("#tcl-ask, #tcl-examples") !== null;
  });

  function pixels(image, width, height) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  }

  function start(figure) {
    const [picture, overlay, labels] = ["picture", "overlay", "labels"].map((name) =>
      figure.querySelector(`.tcl-${name}`));
    const [focus, hint, stage] = ["focus", "hint", "stage"].map((name) => figure.querySelector(`.tcl-${name}`));
    const chips = [...figure.querySelectorAll(".tcl-chip")];
    const words = JSON.parse(figure.dataset.words);
    let map = null, colours = null, pinned = 0, shown = 0;

    Promise.all([picture.decode(), labels.decode()]).then(() => {
      const width = labels.naturalWidth, height = labels.naturalHeight;
      map = pixels(labels, width, height);
      colours = pixels(picture, width, height);
      focus.width = width;
      focus.height = height;
      figure.dataset.ready = "true";
      if (asked && stage.getBoundingClientRect().top > window.innerHeight - 120) {
        figure.scrollIntoView({ behavior: "smooth", block: "start" });
      }
      asked = false;
    });

    function show(label) {
      if (!map || label === shown) return;
      shown = label;
      chips.forEach((chip) => chip.classList.toggle("tcl-active", Number(chip.dataset.label) === label));
      focus.style.opacity = label ? 1 : 0;
      if (!label) return;
      const drawn = new ImageData(new Uint8ClampedArray(colours.data), map.width, map.height);
      for (let i = 0; i < drawn.data.length; i += 4) {
        if (map.data[i] === label) continue;
        const grey = PLAIN * (0.3 * drawn.data[i] + 0.59 * drawn.data[i + 1] + 0.11 * drawn.data[i + 2]);
        drawn.data[i] = drawn.data[i + 1] = drawn.data[i + 2] = grey;
      }
      focus.getContext("2d").putImageData(drawn, 0, 0);
    }

    function under(event) {
      if (!map) return 0;
      const box = overlay.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * map.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * map.height);
      const inside = x >= 0 && y >= 0 && x < map.width && y < map.height;
      return inside ? map.data[4 * (y * map.width + x)] : 0;
    }

    function point(event) {
      const label = under(event), box = stage.getBoundingClientRect();
      show(label || pinned);
      hint.textContent = label ? words[label - 1] : "";
      hint.style.left = `${Math.min(event.clientX - box.left + 12, box.width - hint.offsetWidth - 4)}px`;
      hint.style.top = `${Math.max(event.clientY - box.top - 30, 4)}px`;
    }

    function leave() {
      hint.textContent = "";
      show(pinned);
    }

    function pin(label) {
      pinned = pinned === label ? 0 : label;
      chips.forEach((chip) => chip.setAttribute("aria-pressed", String(Number(chip.dataset.label) === pinned)));
      show(pinned);
    }

    stage.addEventListener("pointermove", point);
    stage.addEventListener("pointerdown", point);
    stage.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
    document.addEventListener("pointerdown", (event) => stage.contains(event.target) || leave()); // a finger elsewhere
    for (const chip of chips) {
      const label = Number(chip.dataset.label);
      chip.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(label));
      chip.addEventListener("pointerleave", () => show(pinned));
      chip.addEventListener("click", () => pin(label));
    }
  }

  function find() {
    for (const figure of document.querySelectorAll(".tcl-view:not([data-started])")) {
      figure.dataset.started = "true";
      start(figure);
    }
  }

  new MutationObserver(find).observe(document.documentElement, { childList: true, subtree: true });
})();
