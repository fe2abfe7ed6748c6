// Usage: NEW_PASSWORD=… java Recover.java http://localhost:9000 ada@example.com   (Java 17 or newer)
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.regex.Pattern;

public class Recover {
    static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    public static void main(String[] arguments) throws Exception {
        String base = arguments[0], email = arguments[1], password = System.getenv("NEW_PASSWORD");

        String asked = call(base, "forgot-password", "email", email);
        System.out.println("Type the code from the mail marked " + field(asked, "reference") + ":");
        String code = new BufferedReader(new InputStreamReader(System.in)).readLine().strip();

        // Keep the grant: it is what ties the next call to this one.
        String confirmed = call(base, "confirm-otp-reset", "resetToken", code, "proof", "grant");
        String done = call(base, "password-reset",
                "email", email, "password", password, "resetGrant", field(confirmed, "resetGrant"));
        System.out.println(field(done, "message"));
    }

    /** Names and values alternate. */
    static String call(String base, String name, String... fields) throws Exception {
        var body = new StringBuilder("{");
        for (int i = 0; i < fields.length; i += 2) {
            body.append(i == 0 ? "" : ",").append(quoted(fields[i])).append(':').append(quoted(fields[i + 1]));
        }
        var request = HttpRequest.newBuilder(URI.create(base + "/api/v1/user/" + name))
                .timeout(Duration.ofSeconds(20))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body.append('}').toString()))
                .build();
        var answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            System.err.println(field(answer.body(), "message"));
            System.exit(1);
        }
        return answer.body();
    }

    // Java has no JSON of its own. These two do for this flow; use your JSON library in a real program.

    static String quoted(String text) {
        var made = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            made.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : String.valueOf(c));
        }
        return made.append('"').toString();
    }

    static String field(String json, String name) {
        var found = Pattern.compile("\"" + name + "\"\\s*:\\s*\"([^\"]*)\"").matcher(json);
        return found.find() ? found.group(1) : "";
    }
}
