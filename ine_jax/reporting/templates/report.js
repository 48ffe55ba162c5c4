// While R is held every image is sharp. Nothing else on the page needs a script.
const root = document.documentElement;
const hold = (on) => root.classList.toggle("held", on);
root.classList.add("scripted");
addEventListener("keydown", (event) => {
  if (event.code === "KeyR" && !event.ctrlKey && !event.metaKey && !event.altKey) hold(true);
});
addEventListener("keyup", (event) => event.code === "KeyR" && hold(false));
addEventListener("blur", () => hold(false));
