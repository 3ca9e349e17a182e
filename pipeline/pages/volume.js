// A volume as it stands in the page, unpacked.
async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Volume {
  constructor(packed, voxels) {
    Object.assign(this, packed);
    const [x, y] = this.shape, count = voxels.length / 3;
    this.strides = [1, x, x * y];
    [this.image, this.truth, this.prediction] = [0, 1, 2].map((part) => voxels.subarray(part * count, (part + 1) * count));
  }

  // The slices across each axis that hold most foreground, the middle ones where there is none.
  fullest() {
    return this.shape.map((length, axis) => {
      const counts = new Uint32Array(length), stride = this.strides[axis];
      this.truth.forEach((label, n) => { if (label || this.prediction[n]) counts[Math.floor(n / stride) % length]++; });
      const most = Math.max(...counts);
      return most ? counts.indexOf(most) : length >> 1;
    });
  }

  // What stands at a place, in words.
  told(position, classes) {
    const n = position.reduce((sum, index, axis) => sum + index * this.strides[axis], 0), [low, high] = this.window;
    const sides = [["L", "R"], ["P", "A"], ["I", "S"]], named = (label) => classes[label] ?? `class ${label}`;
    const along = (row, axis) => {
      const mm = row[3] + position.reduce((sum, index, other) => sum + row[other] * index, 0);
      return `${sides[axis][Number(mm >= 0)]} ${Math.abs(mm).toFixed(1)}`;
    };
    const where = this.affine ? `${this.affine.map(along).join("  ")} mm` : `voxel ${position.join(", ")}`;
    const value = Number((low + (this.image[n] / 255) * (high - low)).toPrecision(4));
    return [where, `value ${value}`, `truth ${named(this.truth[n])}`, `prediction ${named(this.prediction[n])}`];
  }
}
