// Opened from its folder on disk, a page may not request files but may load scripts. Beside each
// FILE.json lies FILE.json.js, which hands the same data to the element that loads it.
if (window.location.protocol === "file:") {
    jQuery.ajaxTransport("+json", function (options) {
        return {
            send: function (headers, done) {
                var script = document.createElement("script");
                script.answer = function (data) { done(200, "success", {json: data}); };
                script.onload = function () { script.remove(); };
                script.onerror = function () { script.remove(); done(404, "not found"); };
                script.src = options.url.replace(/\?.*/, "") + ".js";
                document.head.appendChild(script);
            },
            abort: function () {}
        };
    });
}
