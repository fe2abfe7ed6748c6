<?php
// Usage: NEW_PASSWORD=… php recover.php http://localhost:9000 ada@example.com   (PHP 8)

function call(string $base, string $name, array $fields): array
{
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => 'Content-Type: application/json',
        'content' => json_encode($fields, JSON_THROW_ON_ERROR),
        'timeout' => 20,
        'ignore_errors' => true, // a refusal has a body too
    ]]);
    $answer = file_get_contents("$base/api/v1/user/$name", false, $context);
    if ($answer === false) {
        fwrite(STDERR, "no answer\n");
        exit(1);
    }
    $body = json_decode($answer, true, 8, JSON_THROW_ON_ERROR);
    if (!str_contains($http_response_header[0], ' 200')) {
        fwrite(STDERR, $body['message'] . "\n");
        exit(1);
    }
    return $body;
}

[, $base, $email] = $argv;
$password = getenv('NEW_PASSWORD');

$asked = call($base, 'forgot-password', ['email' => $email]);
echo "Type the code from the mail marked {$asked['reference']}:\n";
$code = trim((string) fgets(STDIN));

// Keep the grant: it is what ties the next call to this one.
$confirmed = call($base, 'confirm-otp-reset', ['resetToken' => $code, 'proof' => 'grant']);
$done = call($base, 'password-reset', [
    'email' => $confirmed['email'],
    'password' => $password,
    'resetGrant' => $confirmed['resetGrant'],
]);
echo $done['message'], "\n";
