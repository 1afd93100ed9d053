// Signs a request: sets the variable hash to the SHA-1 of the values of the parameters in `hashed`, in this order,
// followed by the secret key.
const CryptoJS = require("crypto-js");

module.exports = (req, bru, hashed) => {
  const body = req.getBody() || [];
  const fields = Array.isArray(body) ? body : Object.entries(body).map(([name, value]) => ({ name, value }));
  const value = (name) => (fields.find((field) => field.name === name && field.enabled !== false) || { value: "" }).value;
  const text = hashed.map(value).join("") + bru.getEnvVar("key");
  bru.setVar("hash", CryptoJS.SHA1(bru.interpolate(text)).toString());
};
