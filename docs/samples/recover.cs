// Usage: NEW_PASSWORD=… dotnet run recover.cs -- http://localhost:9000 ada@example.com   (.NET 10; older: as Program.cs of a console project)
using System;
using System.Collections.Generic;
using System.Net.Http;
using System.Text;
using System.Text.Json.Nodes;
using System.Threading.Tasks;

var (address, email) = (args[0], args[1]);
var password = Environment.GetEnvironmentVariable("NEW_PASSWORD") ?? "";
using var client = new HttpClient { Timeout = TimeSpan.FromSeconds(20) };

async Task<JsonNode> Call(string name, JsonObject fields)
{
    using var body = new StringContent(fields.ToJsonString(), Encoding.UTF8, "application/json");
    using var answer = await client.PostAsync($"{address}/api/v1/user/{name}", body);
    var got = JsonNode.Parse(await answer.Content.ReadAsStringAsync())!;
    if (!answer.IsSuccessStatusCode)
    {
        Console.Error.WriteLine((string?)got["message"]);
        Environment.Exit(1);
    }
    return got;
}

var asked = await Call("forgot-password", new JsonObject { ["email"] = email });
Console.WriteLine($"Type the code from the mail marked {asked["reference"]}:");
var code = (Console.ReadLine() ?? "").Trim();

// Keep the grant: it is what ties the next call to this one.
var confirmed = await Call("confirm-otp-reset", new JsonObject { ["resetToken"] = code, ["proof"] = "grant" });
var done = await Call("password-reset", new JsonObject
{
    ["email"] = (string?)confirmed["email"],
    ["password"] = password,
    ["resetGrant"] = (string?)confirmed["resetGrant"],
});
Console.WriteLine(done["message"]);
