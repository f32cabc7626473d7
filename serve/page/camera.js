// One image from the camera.

import { byId } from "./dom.js";

const QUALITY = 0.92;

/** Browsers show the camera only to pages of this machine, or that came by HTTPS. */
export const canFilm = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** @returns {Promise<?Blob>} null if it was closed without one */
export async function film() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  const [dialog, video] = [byId("camera-dialog"), byId("video")];
  video.srcObject = stream;
  dialog.showModal();
  try {
    return await new Promise((resolve) => {
      byId("shoot").onclick = () => snapshot(video).then(resolve);
      byId("camera-close").onclick = () => resolve(null);
      dialog.onclose = () => resolve(null);
    });
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    dialog.close();
  }
}

function snapshot(video) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}
