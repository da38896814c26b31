<?php
// What was ordered: HTTP before MariaDB, over a connection for each request.
if ($_SERVER["REQUEST_URI"] === "/alive") {
    echo "alive\n";
    return;
}
$store = new mysqli("mariadb", "orders", "orders", "orders");
if ($_SERVER["REQUEST_METHOD"] === "POST") {
    $order = $store->prepare("insert into orders values (?)");
    $title = file_get_contents("php://input");
    $order->bind_param("s", $title);
    $order->execute();
    echo "ordered\n";
    return;
}
foreach ($store->query("select title from orders") as $row) {
    echo $row["title"], "\n";
}
