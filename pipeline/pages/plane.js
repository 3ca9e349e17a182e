// One plane of a volume on a canvas, and what a reader does with it.
// Of an array along R, A and S: columns and rows of the screen run against the axes, as radiologists look at them.
const PATIENT = [
  { name: "axial", across: 2, column: 0, row: 1, letters: "RLAP" },
  { name: "coronal", across: 1, column: 0, row: 2, letters: "RLSI" },
  { name: "sagittal", across: 0, column: 1, row: 2, letters: "APSI" },
];
const PAGES = [
  { name: "page", across: 0, column: 2, row: 1, letters: "" },
  { name: "row", across: 1, column: 2, row: 0, letters: "" },
  { name: "column", across: 2, column: 1, row: 0, letters: "" },
];
const TALLEST = 460; // CSS pixels of a plane
const NOTCH = 50; // pixels of a wheel for one slice
const KEYS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }; // slices
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function element(kind, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(kind), attributes);
  made.append(...children);
  return made;
}

class Plane {
  constructor(viewer, kind, volume) {
    Object.assign(this, kind, { viewer, volume, turn: 0, grey: element("canvas"), cover: element("canvas") });
    this.size = [volume.shape[this.column], volume.shape[this.row]];
    for (const layer of [this.grey, this.cover]) [layer.width, layer.height] = this.size;
    const [width, height] = this.extent = [this.column, this.row].map((axis) => volume.shape[axis] * volume.spacing[axis]);
    this.canvas = element("canvas", { tabIndex: 0, role: "img", ariaLabel: `${this.name} plane` });
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.canvas.style.maxWidth = `${Math.round((TALLEST * width) / height)}px`;
    this.slider = element("input", { type: "range", min: 0, max: volume.shape[this.across] - 1, ariaLabel: `${this.name} slice` });
    this.number = element("output");
    this.box = element("div", { className: "plane" }, this.canvas, element("label", {}, this.name, this.slider, this.number));
    this.slider.addEventListener("input", () => viewer.move(this.across, Number(this.slider.value)));
    const handlers = {
      wheel: this.onWheel, pointermove: this.onMove, click: this.point, keydown: this.onKey, // a finger's tap is a click
      pointerdown: (event) => this.canvas.setPointerCapture(event.pointerId), contextmenu: (event) => event.preventDefault(),
    };
    for (const [kind, handle] of Object.entries(handlers)) this.canvas.addEventListener(kind, handle.bind(this), { passive: false });
  }

  onWheel(event) {
    this.turn += clamp(event.deltaMode ? event.deltaY * 20 : event.deltaY, -NOTCH, NOTCH);
    const steps = Math.trunc(this.turn / NOTCH);
    this.turn -= steps * NOTCH;
    this.step(-steps, event);
  }

  onMove(event) {
    if (event.buttons === 2 || (event.buttons && event.shiftKey)) this.viewer.changeWindow(event.movementX, event.movementY);
    else if (event.buttons) this.point(event);
  }

  onKey(event) {
    if (KEYS[event.key]) this.step(KEYS[event.key], event);
  }

  step(by, event) {
    event.preventDefault(); // the page stays where it is
    this.viewer.move(this.across, this.viewer.position[this.across] + by);
  }

  point(event) {
    if (event.shiftKey) return;
    const box = this.canvas.getBoundingClientRect(), { position } = this.viewer;
    const parts = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    [this.column, this.row].forEach((axis, n) => {
      position[axis] = this.turned(clamp(Math.floor(parts[n] * this.size[n]), 0, this.size[n] - 1), this.size[n]);
    });
    this.viewer.draw();
  }

  // A screen's column or row as an index of the volume, and back.
  turned(index, length) { return this.letters ? length - 1 - index : index; }

  draw() {
    const index = this.viewer.position[this.across], ratio = window.devicePixelRatio || 1, { canvas, extent } = this;
    this.slider.value = index;
    this.number.textContent = `${index + 1} / ${this.volume.shape[this.across]}`;
    canvas.width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
    canvas.height = Math.max(Math.round((canvas.width * extent[1]) / extent[0]), 1);
    const context = canvas.getContext("2d"), kinds = this.fill(index);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.grey, 0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cover, 0, 0, canvas.width, canvas.height);
    this.outline(context, kinds, ratio);
    this.mark(context, ratio);
  }

  // Both layers, a pixel for each voxel; returns what each pixel is covered as.
  fill(index) {
    const { volume, viewer, size: [width, height] } = this, shades = viewer.shades(), covers = viewer.covers();
    const layers = [new ImageData(width, height), new ImageData(width, height)], kinds = new Uint8Array(width * height);
    const [grey, cover] = layers.map((layer) => new Uint32Array(layer.data.buffer));
    for (let row = 0, n = 0; row < height; row++) {
      const start = index * volume.strides[this.across] + this.turned(row, height) * volume.strides[this.row];
      for (let column = 0; column < width; column++, n++) {
        const voxel = start + this.turned(column, width) * volume.strides[this.column];
        kinds[n] = viewer.kind(volume.truth[voxel], volume.prediction[voxel]);
        [grey[n], cover[n]] = [shades[volume.image[voxel]], covers[kinds[n]]];
      }
    }
    [this.grey, this.cover].forEach((canvas, n) => canvas.getContext("2d").putImageData(layers[n], 0, 0));
    return kinds;
  }

  // A line around the pixels of each kind.
  outline(context, kinds, ratio) {
    const [width, height] = this.size, [wide, high] = [context.canvas.width / width, context.canvas.height / height];
    const lines = new Map();
    const line = (n, other, isInside, x, y, dx, dy) => {
      if (isInside && kinds[other] === kinds[n]) return;
      if (!lines.has(kinds[n])) lines.set(kinds[n], new Path2D());
      lines.get(kinds[n]).moveTo(x * wide, y * high);
      lines.get(kinds[n]).lineTo((x + dx) * wide, (y + dy) * high);
    };
    for (let y = 0, n = 0; y < height; y++) {
      for (let x = 0; x < width; x++, n++) {
        if (!kinds[n]) continue;
        line(n, n - 1, x > 0, x, y, 0, 1);
        line(n, n + 1, x < width - 1, x + 1, y, 0, 1);
        line(n, n - width, y > 0, x, y, 1, 0);
        line(n, n + width, y < height - 1, x, y + 1, 1, 0);
      }
    }
    Object.assign(context, { lineWidth: 1.6 * ratio, lineCap: "round" });
    for (const [kind, path] of lines) {
      context.strokeStyle = `rgb(${this.viewer.colour(kind)})`;
      context.stroke(path);
    }
  }

  // The lines of the other two planes, and the patient's sides.
  mark(context, ratio) {
    const { width, height } = context.canvas, { position } = this.viewer, gap = 7 * ratio, edge = 11 * ratio;
    const x = ((this.turned(position[this.column], this.size[0]) + 0.5) / this.size[0]) * width;
    const y = ((this.turned(position[this.row], this.size[1]) + 0.5) / this.size[1]) * height;
    Object.assign(context, { strokeStyle: "rgba(255, 255, 255, 0.55)", lineWidth: ratio });
    context.beginPath();
    for (const [a, b, c, d] of [[0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height]]) {
      context.moveTo(a, b);
      context.lineTo(c, d);
    }
    context.stroke();
    Object.assign(context, { font: `600 ${13 * ratio}px system-ui, sans-serif`, textAlign: "center", textBaseline: "middle" });
    Object.assign(context, { fillStyle: "#fff", strokeStyle: "#000", lineWidth: 2 * ratio, lineJoin: "round" });
    const places = [[edge, height / 2], [width - edge, height / 2], [width / 2, edge], [width / 2, height - edge]];
    [...this.letters].forEach((letter, n) => {
      context.strokeText(letter, ...places[n]);
      context.fillText(letter, ...places[n]);
    });
  }
}
